"""Reading a sweep from its gin file, and finding what is wrong with it before anything runs."""

from collections.abc import Sequence

from dpt_jax import gin_utils
from dpt_jax.errors import InputError, nearest_names
from dpt_jax.sweeps.definition import Point, Sweep

FOLDER = "sweeps"
# Whose bindings are a sweep's own, and not its points'.
_OWN = ("Sweep", "Report", "chosen_points")


def known_sweeps() -> list[str]:
    """The names of the sweeps that come with the package."""
    return sorted(path.stem for path in (gin_utils.gin_configs() / FOLDER).glob("*.gin"))


def sweep_file(name: str) -> str:
    """The gin file that a name on the command line stands for: a path, or one of the package's.

    Raises:
      InputError: when it is neither.
    """
    if name.endswith(".gin"):
        return name
    if name not in known_sweeps():
        raise InputError(
            f"There is no sweep {name!r}.{nearest_names(name, known_sweeps())} There are "
            f"{', '.join(known_sweeps())}; or name a gin file of your own."
        )
    return f"{FOLDER}/{name}.gin"


def load(
    gin_files: Sequence[str], gin_bindings: Sequence[str], search_paths: Sequence[str]
) -> tuple[Sweep, list[str]]:
    """Reads a sweep.

    Args:
      gin_files: the sweep's file, and others on top.
      gin_bindings: of `--gin.NAME=VALUE`. Those of `Sweep`, `Report` and `chosen_points`, and of
        macros that the files know, are the sweep's own; any other belongs to every point.
      search_paths: further folders to look for gin files in.

    Returns:
      The sweep, and the bindings that belong to every point.

    Raises:
      InputError: for a file or binding that cannot be used, or files without a sweep in them.
    """
    macros = gin_utils.macros_of(gin_files, search_paths)

    def is_own(binding: str) -> bool:
        name = binding.partition("=")[0].strip()
        owner = name.removeprefix("sweeps.").partition(".")[0]
        return name in macros or owner in _OWN and "." in name

    own = [binding for binding in gin_bindings if is_own(binding)]
    gin_utils.parse(gin_files, own, search_paths)
    try:
        sweep = gin_utils.build(Sweep)
    except InputError as e:
        if "of Sweep" not in str(e):
            raise
        raise InputError(
            f"{', '.join(gin_files)} sets no sweeps.Sweep.name: it is no sweep. Name one of "
            f"{', '.join(known_sweeps())}, or see gin_configs/{FOLDER}."
        ) from e
    return sweep, [binding for binding in gin_bindings if binding not in own]


def check(
    sweep: Sweep,
    points: Sequence[Point],
    search_paths: Sequence[str],
    gin_bindings: Sequence[str] = (),
) -> None:
    """Builds the configuration of enough points to see every value of every axis once.

    Args:
      sweep: for the message.
      points: all points that are to be run.
      search_paths: further folders to look for gin files in.
      gin_bindings: of `--gin.NAME=VALUE`, those that belong to every point.

    Raises:
      InputError: for a binding that does not exist or is refused, with the point's name, or an
        axis or a flag that is a macro which nothing uses.
    """
    from dpt_jax.problems import kinds

    seen: set[tuple[str, str]] = set()
    used: set[str] = set()
    for point in points:
        values = {(axis, repr(value)) for axis, value in point.axes.items()}
        if values <= seen:
            continue
        seen |= values
        try:
            gin_utils.parse(
                list(point.gin_files),
                [*point.bindings, f"MODEL_DIR = {point.name!r}"],
                search_paths,
            )
            kinds.build()
        except InputError as e:
            message = sweep.in_terms_of_axes(str(e))
            raise InputError(
                f"The point {point.name} of {sweep.name} cannot be run: {message}"
            ) from e
        used |= gin_utils.used_macros()
    bound = {binding.partition("=")[0].strip() for point in points for binding in point.bindings}
    for axis in sweep.axes:
        if axis in bound and axis.isidentifier() and axis not in used:
            raise InputError(
                f"The sweep {sweep.name} has the axis {axis}, but nothing in its gin files uses "
                f"that macro.{nearest_names(axis, used)} Change sweeps.Sweep.grid."
            )
    gin_utils.check_flags(gin_bindings, used)
