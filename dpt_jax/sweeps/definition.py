"""What a sweep is, as a gin file writes it down, and the points that it stands for."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dpt_jax.analysis.report import Report
from dpt_jax.errors import InputError, nearest_names

# What a file system on any machine takes in the name of a folder.
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
# A flag in a message that is named to be changed, without a value.
_FLAG = re.compile(r"--gin\.([\w.]*\w)(?![\w=]|\.\w)")
_LONGEST_NAME = 200


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
      name: the name of its folder.
      axes: its value on each axis of the sweep.
      gin_files: gin files, later ones override earlier ones.
      bindings: gin bindings on top, as `NAME = value`, without MODEL_DIR.
    """

    name: str
    axes: Mapping[str, Any]
    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """What makes the point what it is, ready for JSON."""
        return {
            "axes": dict(self.axes),
            "gin_files": list(self.gin_files),
            "bindings": list(self.bindings),
        }


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Runs that differ in some gin bindings; bound through gin as `sweeps.Sweep`.

    An axis is the name of a gin binding (`BOTTLENECK`, `optax.adamw.weight_decay`), of one of the
    `cases`, or any word that stands in braces in a text of `bindings` or `gin_files`::

        sweeps.Sweep:
          name = "few_shot"
          gin_files = ["runs/prompt_train.gin", "models/t5_1_0_base.gin", "recipes/paper.gin"]
          bindings = {"MIXTURE_OR_TASK_NAME": "dpt_{task}_k{k}_s{seed}", "RANDOM_SEED": "{seed}"}
          cases = {"method": {"PT": {"gin_files": ["prompts/vanilla.gin"]}, "DPT": {}}}
          grid = {"method": ["PT", "DPT"], "task": ["rte", "cb"], "k": [8, 16], "seed": [0, 1, 2]}

    A text that begins with "@" or "%" is a gin reference, as in "@optax.adafactor".

    Attributes:
      name: the sweep, and the folder of its results.
      gin_files: base files of every point.
      bindings: bindings of every point.
      grid: axis to its values; every combination is a point.
      points: a list of points instead of a grid, or to be combined with it: each maps the same
        axes to a value.
      cases: axis to label to the `gin_files` and `bindings` that the label stands for.
      folder: name of a point's folder, axes in braces; None is `axis=value,axis=value`.
      report: how the results are shown.
    """

    name: str
    gin_files: Sequence[str] = ()
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] = ()
    cases: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    folder: str | None = None
    report: Report = dataclasses.field(default_factory=Report)

    def __post_init__(self):
        for field, (is_good, takes) in _TAKES.items():
            if not is_good(value := getattr(self, field)):
                raise InputError(f"sweeps.Sweep.{field} is {value!r}; it takes {takes}.")
        if not self.name or _UNSAFE.search(self.name):
            raise InputError(
                f"The sweep's name is {self.name!r}; it names a folder, so it takes letters, "
                "digits and ._+- only. Change sweeps.Sweep.name."
            )
        for axis, values in self.grid.items():
            if not _is_list(values) or not values:
                raise InputError(
                    f"grid has {axis} = {values!r}; it takes a list of one or more values. Change "
                    "sweeps.Sweep.grid."
                )
        listed = [sorted(point) for point in self.points]
        if any(names != listed[0] for names in listed):
            raise InputError(
                f"The points of the list have different axes: {listed}. Give each the same ones in "
                "sweeps.Sweep.points."
            )
        if self.points and (shared := set(self.points[0]) & set(self.grid)):
            raise InputError(
                f"{', '.join(sorted(shared))} is both in sweeps.Sweep.grid and in its points; "
                "leave it out of one."
            )
        if not self.axes:
            raise InputError(
                "The sweep has no axes. Set sweeps.Sweep.grid, such as {'BOTTLENECK': [2, 5]}, or "
                "sweeps.Sweep.points."
            )
        for axis in self.cases:
            if axis not in self.axes:
                raise InputError(
                    f"cases has {axis!r}, which is no axis of the sweep; it has "
                    f"{', '.join(self.axes)}. Change sweeps.Sweep.cases or sweeps.Sweep.grid."
                )

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The values of every axis, in the order in which they are written down."""
        found: dict[str, list[Any]] = {}
        for axis in self.points[0] if self.points else ():
            found[axis] = list(dict.fromkeys(_plain(point[axis], axis) for point in self.points))
        for axis, values in self.grid.items():
            found[axis] = [_plain(value, axis) for value in values]
        return found

    def expand(self, extra_bindings: Iterable[str] = ()) -> list[Point]:
        """The points, in the order of the list and the grid, the last axis fastest.

        Args:
          extra_bindings: bindings of every point that override all others, as `NAME = value`.

        Raises:
          InputError: for a label that no case has, a value that gin cannot read back, or two
            points with the same folder.
        """
        extra = list(extra_bindings)
        for binding in extra:
            name = binding.partition("=")[0].strip()
            if name in self.axes:
                raise InputError(
                    f"--gin.{name} is an axis of the sweep {self.name}. To run some of its points, "
                    f"use --only {name}=VALUE; to change its values, --gin.Sweep.grid."
                )
        made: dict[str, Point] = {}
        grid = [[(axis, value) for value in values] for axis, values in self.grid.items()]
        for listed in self.points or ({},):
            for combination in itertools.product(*grid):
                axes = {k: _plain(v, k) for k, v in {**listed, **dict(combination)}.items()}
                point = self._point(axes, extra)
                if point.name in made:
                    raise InputError(self._same_folder(made[point.name], point))
                made[point.name] = point
        return list(made.values())

    def in_terms_of_axes(self, message: str) -> str:
        """A message about a point, with the axis in place of the flag of what an axis sets."""

        def named(match: re.Match[str]) -> str:
            axes = [f"the axis {axis} ({self._field_of(axis)})" for axis in self._behind(match[1])]
            return " and ".join(axes) or match[0]

        return _FLAG.sub(named, message)

    def _field_of(self, axis: str) -> str:
        return f"sweeps.Sweep.{'grid' if axis in self.grid else 'points'}"

    def _behind(self, name: str) -> list[str]:
        """The axes that decide what a binding is set to."""
        if name in self.axes:
            return [name]
        found = _slots_in(self.bindings.get(name), self.axes)
        for axis, labels in self.cases.items():
            values = [case["bindings"].get(name) for case in labels.values() if "bindings" in case]
            if any(value is not None for value in values):
                found += [axis, *_slots_in(values, self.axes)]
        return list(dict.fromkeys(found))

    def _point(self, axes: dict[str, Any], extra: list[str]) -> Point:
        files, bindings = list(self.gin_files), dict(self.bindings)
        for axis, labels in self.cases.items():
            label = axes[axis]
            if label not in labels:
                raise InputError(
                    f"The axis {axis!r} has the value {label!r}; its cases are "
                    f"{', '.join(map(str, labels))}.{nearest_names(str(label), map(str, labels))} "
                    "Change sweeps.Sweep.grid or sweeps.Sweep.cases."
                )
            case = labels[label]
            if unknown := set(case) - {"gin_files", "bindings"}:
                raise InputError(
                    f"The case {label!r} of {axis!r} has {', '.join(sorted(unknown))}; it takes "
                    "gin_files and bindings."
                )
            files += case.get("gin_files", ())
            bindings |= case.get("bindings", {})
        filled = {name: _fill(value, axes) for name, value in bindings.items()}
        inserted = set(_slots_in([*files, *bindings.values()], axes))
        filled |= {a: v for a, v in axes.items() if a not in inserted and a not in self.cases}
        bound = [f"{name} = {_gin_value(value, name)}" for name, value in filled.items()] + extra
        for binding in bound:
            name = binding.partition("=")[0].strip()
            if name == "MODEL_DIR" or name.endswith(".model_dir"):
                raise InputError(
                    f"The sweep {self.name} binds {binding}, but every point has a folder of its "
                    "own, below --output. Leave it out, and set --output."
                )
        return Point(
            self._folder_name(axes),
            axes,
            tuple(str(_fill(file, axes)) for file in files),
            tuple(bound),
        )

    def _folder_name(self, axes: Mapping[str, Any]) -> str:
        if self.folder is None:
            parts = (f"{axis}={_UNSAFE.sub('-', str(value))}" for axis, value in axes.items())
            name = ",".join(parts)
        else:
            name = _UNSAFE.sub("-", str(_fill(self.folder, axes)))
        if len(name) > _LONGEST_NAME or name.startswith("."):
            raise InputError(
                f"The folder of a point would be called {name[:60]}…, {len(name)} characters. Give "
                "sweeps.Sweep.folder a shorter one, such as '{" + "}_{".join(axes) + "}'."
            )
        return name

    def _same_folder(self, one: Point, other: Point) -> str:
        differing = [axis for axis in one.axes if one.axes[axis] != other.axes[axis]]
        if not differing:
            return (
                f"The sweep {self.name} has the point {_shown(one.axes)} twice. Leave the repeated "
                "value out of sweeps.Sweep.grid or sweeps.Sweep.points."
            )
        values = [{axis: point.axes[axis] for axis in differing} for point in (one, other)]
        return (
            f"Two points of the sweep {self.name} have the same folder {one.name}: "
            f"{_shown(values[0])} and {_shown(values[1])}. Add "
            + ", ".join("{" + axis + "}" for axis in differing)
            + " to sweeps.Sweep.folder, or leave it out."
        )


def select(points: Sequence[Point], only: Iterable[str]) -> list[Point]:
    """The points that `--only AXIS=VALUE[,VALUE]` names; all of them when there is none.

    Raises:
      InputError: for an axis or a value that the sweep does not have.
    """
    chosen = list(points)
    for text in only:
        axis, equals, values = text.partition("=")
        axes = list(points[0].axes)
        if not equals or axis not in axes:
            raise InputError(
                f"--only is {text!r}; it takes AXIS=VALUE[,VALUE] with an axis of the sweep: "
                f"{', '.join(axes)}.{nearest_names(axis, axes)}"
            )
        known = list(dict.fromkeys(str(point.axes[axis]) for point in points))
        # A value may have commas itself, as a tuple has.
        wanted = [values] if values in known else values.split(",")
        for value in wanted:
            if value not in known:
                raise InputError(
                    f"--only {axis}={value}: the sweep has {axis} = {', '.join(known)}."
                    f"{nearest_names(value, known)}"
                )
        chosen = [point for point in chosen if str(point.axes[axis]) in wanted]
    if not chosen:
        raise InputError(f"No point of the sweep has all of --only {' --only '.join(only)}.")
    return chosen


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return _is_list(value) and all(isinstance(text, str) for text in value)


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _is_cases(value: Any) -> bool:
    return _is_named(value) and all(
        isinstance(labels, Mapping) and all(map(_is_case, labels.values()))
        for labels in value.values()
    )


def _is_case(value: Any) -> bool:
    if not _is_named(value):
        return False
    return _is_texts(value.get("gin_files", ())) and _is_named(value.get("bindings", {}))


# What the fields of a sweep take: a check of the value's type, and the words for it.
_TAKES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "a text"),
    "gin_files": (_is_texts, 'a list of texts, such as ["runs/demo.gin"]'),
    "bindings": (_is_named, 'values by name, such as {"TRAIN_STEPS": 300}'),
    "grid": (_is_named, 'lists of values by axis, such as {"BOTTLENECK": [2, 5]}'),
    "points": (
        lambda value: _is_list(value) and all(map(_is_named, value)),
        'a list of values by axis, such as [{"BOTTLENECK": 2}, {"BOTTLENECK": 5}]',
    ),
    "cases": (
        _is_cases,
        "by axis and label the gin_files and bindings, such as "
        '{"method": {"PT": {"gin_files": ["prompts/vanilla.gin"]}, "DPT": {}}}',
    ),
    "folder": (lambda value: value is None or isinstance(value, str), "a text, or None"),
    "report": (lambda value: isinstance(value, Report), "@sweeps.Report()"),
}


def _shown(axes: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis} = {value!r}" for axis, value in axes.items())


def _slots(text: str, axes: Iterable[str]) -> list[str]:
    return [axis for axis in axes if "{" + axis + "}" in text]


def _fill(value: Any, axes: Mapping[str, Any]) -> Any:
    """`value` with the axes in braces replaced; a text that is one axis alone keeps its type."""
    if isinstance(value, str):
        for axis in _slots(value, axes):
            if value == "{" + axis + "}":
                return axes[axis]
            value = value.replace("{" + axis + "}", str(axes[axis]))
        return value
    if isinstance(value, Mapping):
        return {k: _fill(v, axes) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_fill(v, axes) for v in value)
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for v in value.values() for text in _texts(v)]
    return [text for v in value for text in _texts(v)] if isinstance(value, list | tuple) else []


def _slots_in(value: Any, axes: Iterable[str]) -> list[str]:
    """The axes that stand in braces in the texts of a value."""
    return [axis for text in _texts(value) for axis in _slots(text, axes)]


def _plain(value: Any, axis: str) -> Any:
    """An axis's value, if it is one that can be written to files and compared."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return tuple(_plain(v, axis) for v in value)
    raise InputError(
        f"The axis {axis} has the value {value!r}; it takes texts, numbers, booleans, None and "
        "tuples of these, and a gin reference as text, such as '@optax.adafactor'."
    )


def _gin_value(value: Any, name: str) -> str:
    if isinstance(value, str) and value[:1] in ("@", "%"):
        return value
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = (f"{_gin_value(k, name)}: {_gin_value(v, name)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        inside = ", ".join(_gin_value(v, name) for v in value)
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if inside else "()"
    raise InputError(
        f"The sweep binds {name} to {value!r}, which cannot be written to a gin file. Write a "
        "reference as text, such as '@optax.adafactor'."
    )
