"""A release's manifests and compose files as one archive, for images of one name and tag.

`python deploy/bundle.py PREFIX TAG FOLDER` writes FOLDER/scaleodm-TAG.tar.gz and its SHA-256 beside it. The same files
make the same archive, byte for byte.
"""

import gzip
import hashlib
import io
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "scaleodm"
_FILES = ("compose.yml", ".env.example", "LICENSE", "CHANGELOG.md", "deploy/compose", "deploy/kubernetes")
_IMAGE = re.compile(r"(?P<key>newName: )scaleodm/(?P<image>\w+), newTag: [\w.+-]+")
_COMPOSED = re.compile(r"^(?P<key>IMAGE_PREFIX|IMAGE_TAG)=.*$", re.MULTILINE)


def files() -> Iterator[Path]:
    """What goes into the archive."""
    for name in _FILES:
        place = ROOT / name
        below = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
        yield from (path for path in below if "__pycache__" not in path.parts)


def for_images(path: Path, text: str, prefix: str, tag: str) -> str:
    """A file's text with this prefix and tag where it names our images: `kustomization.yaml` and `.env.example` do."""
    if path.name == "kustomization.yaml":
        return _IMAGE.sub(lambda found: f"{found['key']}{prefix}/{found['image']}, newTag: {tag}", text)
    if path.name == ".env.example":
        values = {"IMAGE_PREFIX": prefix, "IMAGE_TAG": tag}
        return _COMPOSED.sub(lambda found: f"{found['key']}={values[found['key']]}", text)
    return text


def archive(prefix: str, tag: str) -> bytes:
    """The archive's bytes: owners and times in it say nothing of who made it, and when."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in files():
            content = for_images(path, path.read_text(), prefix, tag).encode()
            entry = tarfile.TarInfo(f"{NAME}-{tag}/{path.relative_to(ROOT)}")
            entry.size = len(content)
            entry.mode = 0o755 if path.suffix == ".sh" else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def main(words: list[str]) -> int:
    """Write the archive; gives the exit code."""
    if len(words) != 3 or not re.fullmatch(r"[\w][\w.-]{0,127}", words[1]):
        sys.stderr.write("expected PREFIX TAG FOLDER, such as registry.example.org/scaleodm 1.2.3 dist\n")
        return 2
    prefix, tag, folder = words[0].rstrip("/"), words[1], Path(words[2])
    content = archive(prefix, tag)
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{NAME}-{tag}.tar.gz"
    written.write_bytes(content)
    written.with_suffix(".gz.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {written.name}\n")
    sys.stdout.write(f"{written}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
