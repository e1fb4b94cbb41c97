import pytest

from dpt_jax.training import trainer
from tests.support import meshes, runs


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    return runs.save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="package", autouse=True)
def _quick_compilation(tmp_path_factory):
    with runs.quick_compilation(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="package")
def one_device(backbone, tmp_path_factory, _quick_compilation):
    """The run of `meshes.config` on one device."""
    folder = tmp_path_factory.mktemp("one_device")
    trainer.train(meshes.config(folder, backbone, (1, 1, 1)))
    return folder
