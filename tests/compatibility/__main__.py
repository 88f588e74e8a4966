"""`python -m tests.compatibility`: write `docs/compatibility.md`."""

from tests.compatibility.document import PLACE, document, proofs, unproven

if __name__ == "__main__":
    found = proofs()
    PLACE.write_text(document(found))
    print(PLACE)
    for name in unproven(found):
        print(f"no test yet: {name}")
