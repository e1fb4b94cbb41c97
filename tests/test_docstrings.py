"""Every public name says what it takes, gives and refuses, and stands in the reference."""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import re
import textwrap

import pytest

import dpt_jax

ROOT = pathlib.Path(__file__).parents[1]
# Packages that export names; those of `prompted_t5` are the top's.
PACKAGES = sorted(
    f"dpt_jax.{file.parent.name}"
    for file in ROOT.glob("dpt_jax/*/__init__.py")
    if "__all__" in file.read_text() and file.parent.name != "prompted_t5"
)
REFERENCE = {page.stem: page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md")}


def public():
    """(package, name, object) of all that is public."""
    for package in ("dpt_jax", *PACKAGES):
        module = importlib.import_module(package)
        for name in module.__all__:
            yield package, name, getattr(module, name)


# A name that several packages export is looked at once, under the last of them.
NAMES = {f"{p}.{n}": value for p, n, value in {id(v): (p, n, v) for p, n, v in public()}.values()}
CLASSES = {name: value for name, value in NAMES.items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in NAMES.items() if inspect.isfunction(value)}


def methods_of(cls):
    """Its own methods; fields that hold a function are none."""
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else ()
    for name, value in vars(cls).items():
        plain = getattr(value, "__func__", value)
        if inspect.isfunction(plain) and not name.startswith("_") and name not in fields:
            yield name, inspect.unwrap(plain)


METHODS = {
    f"{name}.{attribute}": method
    for name, cls in CLASSES.items()
    for attribute, method in methods_of(cls)
}
CALLED = FUNCTIONS | METHODS


def documented(name, value):
    """The docstring: of a constant the text that follows its assignment."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return inspect.getdoc(value) or ""
    package, attribute = name.rsplit(".", 1)
    module = importlib.import_module(package)
    sources = {importlib.import_module(m) for m in imported_from(module, attribute)} | {module}
    for source in sources:
        body = ast.parse(inspect.getsource(source)).body
        for node, after in zip(body, body[1:], strict=False):
            names = [t.id for t in getattr(node, "targets", ()) if isinstance(t, ast.Name)]
            text = after.value if isinstance(after, ast.Expr) else None
            if attribute in names and isinstance(text, ast.Constant):
                return text.value
    return ""


def imported_from(module, attribute):
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and attribute in [a.name for a in node.names]:
            yield node.module


def sections(text):
    """The sections of a docstring in Google's style, by their titles."""
    parts = re.split(r"^(Args|Attributes|Returns|Raises|Yields):$", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(section):
    lines = textwrap.dedent(section.strip("\n")).splitlines()
    named = [line.partition(":")[0] for line in lines if re.match(r"[\w*, ]+:", line)]
    return {part.strip(" *") for name in named for part in name.split(",")}


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_docstring(name):
    if name == "dpt_jax.__version__":
        return  # Its text is that of its module.
    text = documented(name, NAMES[name])
    assert text and len(text.splitlines()[0]) > 10, name


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_says_what_its_fields_are(name):
    cls = CLASSES[name]
    if not dataclasses.is_dataclass(cls):
        return
    known = set()
    for one in inspect.getmro(cls):
        known |= entries(sections(inspect.cleandoc(one.__doc__ or "")).get("Attributes", ""))
    fields = {f.name for f in dataclasses.fields(cls)} - {"name", "parent"}
    assert fields <= known, sorted(fields - known)


# The start of a reference to another docstring.
REFERS = re.compile(r"(?i)\b(see|those of|as|what|likewise) `")


def text_of(name):
    """A function's docstring; one that overrides has that of what it overrides."""
    owner, _, attribute = name.rpartition(".")
    if owner in CLASSES:
        return inspect.getdoc(getattr(CLASSES[owner], attribute)) or ""
    return inspect.getdoc(CALLED[name]) or ""


@pytest.mark.parametrize("name", CALLED)
def test_a_function_says_what_it_takes(name):
    text = sections(text_of(name))
    assert text[""], f"{name} has no docstring"
    if REFERS.search(text[""]):
        return  # It refers to another one.
    parameters = set(inspect.signature(CALLED[name]).parameters) - {"self", "cls"}
    # What the first part names needs no list, nor does a single argument.
    missing = {p for p in parameters - entries(text.get("Args", "")) if f"`{p}`" not in text[""]}
    assert not missing or len(parameters) == 1, sorted(missing)


@pytest.mark.parametrize("name", CALLED)
def test_a_function_says_what_it_refuses(name):
    source = textwrap.dedent(inspect.getsource(CALLED[name]))
    raised = set(re.findall(r"^\s+raise (\w+(?:Error|Stopped))\(", source, re.MULTILINE))
    text = text_of(name)
    told = "rrors are those" in text or "rrors and result" in text
    missing = sorted(x for x in raised - {"NotImplementedError"} if x not in text)
    assert told or not missing, missing


@pytest.mark.parametrize("name", CALLED)
def test_a_function_of_arrays_says_their_shapes(name):
    plain = [
        annotation
        for annotation in map(str, CALLED[name].__annotations__.values())
        if re.search(r"\b(Array|ndarray)\b", annotation)
        # jaxtyping's have their shape; a function's or a file's array is said where it is defined.
        and not re.search(r"jaxtyping|Callable|PathLike|_jax.Array'", annotation)
    ]
    text = text_of(name)
    assert not plain or REFERS.search(text) or re.search(r"\[[\w +*.,/-]+\]", text), plain


METHOD_CLASSES = {
    name: cls
    for name, cls in CLASSES.items()
    if issubclass(cls, dpt_jax.SoftPrompt | dpt_jax.Prefix) and "PerRow" not in name
}


@pytest.mark.parametrize("name", METHOD_CLASSES)
def test_a_method_names_its_source(name):
    text = " ".join(METHOD_CLASSES[name].__doc__.split())
    assert re.search(r"(19|20)\d\d", text) or "no paper" in text


def test_every_package_has_a_page_of_the_reference_and_its_names_are_on_it():
    shown = {m for page in REFERENCE.values() for m in re.findall(r"^::: ([\w.]+)$", page, re.M)}
    assert {"dpt_jax", *PACKAGES} <= shown
    # All of `__all__` is shown where no members are named; `make docs` looks at the result.
    listed = re.findall(r"^\s+- (\w+)$", REFERENCE["python"], re.M)
    linked = re.findall(r"\[dpt_jax\.\w+\.(\w+)\]", REFERENCE["python"])
    assert set(dpt_jax.__all__) <= {*listed, *linked}


def test_the_glossary_has_every_macro_once():
    from dpt_jax.gin_utils import MACROS

    page = (ROOT / "docs" / "glossary.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \|", page, re.M)
    assert sorted(rows) == sorted({*MACROS, "SUPERGLUE_DIR", "VOCABULARY"})
    terms = re.findall(r"^\| ([^|]+) \|", page, re.M)
    terms = [term for term in terms if term != "---"]
    assert len(terms) == len(set(terms))
