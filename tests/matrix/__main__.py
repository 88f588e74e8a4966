"""`python -m tests.matrix`: write `docs/failure-matrix.md`."""

from tests.matrix.document import PLACE, cells, document

if __name__ == "__main__":
    PLACE.write_text(document(cells()))
    print(PLACE)
