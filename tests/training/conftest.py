import pytest

from tests.support import runs


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    return runs.save_backbone(tmp_path_factory.mktemp("backbone"))
