import pytest

from dpt_jax.problems import text
from tests.support import meshes


@pytest.fixture(scope="package")
def one_device(backbone, tmp_path_factory):
    """The run of `meshes.config` on one device."""
    folder = tmp_path_factory.mktemp("one_device")
    text.train(meshes.config(folder, backbone, (1, 1, 1)))
    return folder
