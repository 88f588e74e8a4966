"""`python -m tests.docs`: write the generated parts of all documents."""

from tests.docs.generated import main

if __name__ == "__main__":
    main()
