"""`python -m router.dashboard.reducing FILE`: a small WebP of a picture, on stdout.

A process of its own, within limits: the file comes from whoever runs a node.
"""

import io
import resource
import sys

from PIL import Image

LONGEST = 1024
"""Pixels of the longer side."""
MOST_PIXELS = 150_000_000
"""Of the original: decoded it takes four bytes each."""
_MOST_MEMORY = 2 * 2**30
_MOST_SECONDS = 25


def reduced(path: str) -> bytes:
    """The picture, no larger than `LONGEST` on either side."""
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    with Image.open(path, formats=("TIFF", "PNG")) as image:
        if image.width * image.height > MOST_PIXELS:
            raise SystemExit(f"{image.width} × {image.height} pixels are more than {MOST_PIXELS}")
        image.draft(image.mode, (LONGEST, LONGEST))
        has_alpha = image.mode in ("RGBA", "LA", "PA")
        small = image.reduce(max(1, max(image.size) // LONGEST)) if image.mode != "P" else image
        small = small.convert("RGBA" if has_alpha else "RGB")
        small.thumbnail((LONGEST, LONGEST))
        kept = io.BytesIO()
        small.save(kept, "WEBP", quality=80)
    return kept.getvalue()


def main() -> int:
    """Reduce the file that is named."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    sys.stdout.buffer.write(reduced(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
