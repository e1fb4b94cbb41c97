"""What MkDocs does besides: notebooks as pages, links out of docs/, and no public name left out.

MkDocs calls the functions by their names (`hooks` in mkdocs.yml).
"""

import argparse
import ast
import importlib
import pathlib
import posixpath
import re
import zlib
from collections.abc import Iterator
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
# Packages whose names are public elsewhere.
_SHOWN_ELSEWHERE = ("prompted_t5",)
# What `dpt_jax` exports, too.
_METHODS = ("dpt_jax.prompts.", "dpt_jax.prefixes.")
_COMMANDS = "<!-- the help of every command: docs/hooks.py -->"


def on_files(files: Any, config: Any) -> Any:
    """Adds a page and its pictures for every notebook."""
    from nbconvert import MarkdownExporter

    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        stem = notebook.src_uri.removesuffix(".ipynb")
        name = posixpath.basename(stem)
        resources = {"unique_key": name, "output_files_dir": f"{name}_files"}
        body, made = MarkdownExporter().from_filename(notebook.abs_src_path, resources=resources)
        note = f"This page is the notebook [{name}.ipynb]({name}.ipynb), which the tests run.\n\n"
        title, _, rest = body.partition("\n\n")
        files.append(File.generated(config, f"{stem}.md", content=f"{title}\n\n{note}{rest}"))
        folder = posixpath.dirname(notebook.src_uri)
        for path, content in made.get("outputs", {}).items():
            files.append(File.generated(config, posixpath.join(folder, path), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to notebooks become links to their pages, and links to code that of the repository."""
    folder = posixpath.dirname(page.file.src_uri)
    if page.file.src_uri.removesuffix(".md") + ".ipynb" in files.src_uris:
        return markdown
    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, "\n".join(helps()))

    def replaced(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        path = posixpath.normpath(posixpath.join("docs", folder, target))
        if target.endswith(".ipynb") and path.startswith("docs/"):
            return f"[{text}]({target.removesuffix('.ipynb')}.md{anchor})"
        if "://" in target or path.startswith("docs/"):
            return link[0]
        if not (ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri} links to {path}, which is not there.")
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return text if "`" in text or text == path else f"{text} (`{path}`)"

    return _LINK.sub(replaced, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings end in two colons where code follows; a reader sees one."""
    return html.replace("::</p>", ":</p>")


def on_post_build(config: Any) -> None:
    """Refuses a site whose reference lacks a public name."""
    inventory = (pathlib.Path(config.site_dir) / "objects.inv").read_bytes()
    lines = zlib.decompress(inventory.split(b"\n", 4)[4]).decode().splitlines()
    shown = {line.split(" ", 1)[0] for line in lines}
    shown |= {name.replace(room, "dpt_jax.") for name in shown for room in _METHODS}
    if missing := [name for name in public_names() if name not in shown]:
        raise PluginError(f"docs/reference/ does not show {', '.join(missing)}.")


def helps() -> Iterator[str]:
    """What every command says of itself, in Markdown."""
    from dpt_jax.cli.main import COMMANDS

    for name in COMMANDS:
        command = importlib.import_module(f"dpt_jax.cli.{name}")
        parser = argparse.ArgumentParser(
            prog=f"dpt {name}",
            description=command.__doc__,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=78),
        )
        command.add_arguments(parser)
        yield f"## dpt {name}\n\n```text\n{parser.format_help().strip()}\n```\n"


def public_names() -> Iterator[str]:
    """Every name in the `__all__` of a package, with the package's own in front."""
    for file in sorted([*ROOT.glob("dpt_jax/__init__.py"), *ROOT.glob("dpt_jax/*/__init__.py")]):
        package = ".".join(file.parent.relative_to(ROOT).parts)
        if file.parent.name in _SHOWN_ELSEWHERE:
            continue
        for node in ast.parse(file.read_text()).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(target, ast.Name) and target.id == "__all__":
                yield from (f"{package}.{name}" for name in ast.literal_eval(node.value))
