import pytest

from tests.support import runs


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    return runs.save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="package", autouse=True)
def _quick_compilation(tmp_path_factory):
    with runs.quick_compilation(tmp_path_factory.mktemp("programs")):
        yield
