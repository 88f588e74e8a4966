"""What the NodeODM API shows a person who took a wrong path. Pure."""

import html

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#223}"
    "pre{background:#f2f4f7;padding:1rem;overflow:auto;border-radius:.4rem}h1{font-size:1.6rem}"
)


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def not_found_page(method: str, path: str) -> str:
    """The page for a path that is not there (contract 1.1)."""
    return _page("Error", f"<pre>{html.escape(f'Cannot {method} {path}')}</pre>")
