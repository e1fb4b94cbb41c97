"""T5X checkpoints in Orbax format: as T5X's own manager saves them, and as Orbax lays them out."""

import shutil

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dpt_jax.errors import InputError
from dpt_jax.interop import load_backbone, open_backbone
from dpt_jax.models import T5Config
from tests.models.random_weights import random_parameters

CONFIG = T5Config(
    vocab_size=24,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=1,
    head_dim=6,
    mlp_dim=20,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)


@pytest.fixture(scope="module")
def params():
    return random_parameters(CONFIG)


def save(folder, tree, database=True):
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=database)) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
    return folder


def train_state(params):
    # Moments have the parameters' names, so that the two must be told apart.
    moments = {"mu": random_parameters(CONFIG, seed=1)}
    return {"target": params, "state": {"step": np.int32(5), "param_states": {"0": moments}}}


@pytest.fixture(scope="module", params=[True, False], ids=["ocdbt", "folders"])
def checkpoint(request, tmp_path_factory, params):
    """A step's folder whose `state` is T5X's."""
    folder = tmp_path_factory.mktemp("orbax") / "checkpoint_5"
    save(folder / "state", train_state(params), request.param)
    (folder / "_CHECKPOINT_METADATA").write_text("{}")
    return folder


def check_equal(loaded, params):
    loaded, params = flatten_dict(loaded, sep="/"), flatten_dict(params, sep="/")
    assert loaded.keys() == params.keys()
    for name, array in loaded.items():
        assert array.dtype == params[name].dtype
        np.testing.assert_array_equal(array, params[name])


def test_parameters_and_sizes_are_read_without_any_configuration(checkpoint, params):
    assert open_backbone(checkpoint).format == "orbax"
    config, loaded = load_backbone(checkpoint)
    assert config == CONFIG
    check_equal(loaded, params)


def test_the_state_folder_and_a_url_name_the_same_checkpoint(checkpoint, params):
    check_equal(load_backbone(checkpoint / "state")[1], params)
    check_equal(load_backbone(checkpoint.as_uri())[1], params)


def test_bfloat16_parameters_stay_bfloat16(tmp_path, params):
    import jax
    import jax.numpy as jnp

    half = jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), params)
    check_equal(load_backbone(save(tmp_path / "half", {"target": half}))[1], half)


def test_a_bare_tree_of_parameters_is_read(tmp_path, params):
    check_equal(load_backbone(save(tmp_path / "bare", params))[1], params)


def test_the_folder_above_names_its_checkpoints(checkpoint):
    with pytest.raises(InputError, match="holds checkpoint_5: name one"):
        load_backbone(checkpoint.parent)


def test_a_checkpoint_of_something_else_says_what_it_holds(tmp_path):
    folder = save(tmp_path / "other", {"prompt": {"A": np.ones((4, 2))}})
    with pytest.raises(InputError, match=r"without a T5: .*prompt\.A"):
        load_backbone(folder)


def test_half_a_t5_is_refused(tmp_path, params):
    half = {name: params[name] for name in ("token_embedder", "decoder")}
    folder = save(tmp_path / "decoder", {"target": half})
    with pytest.raises(InputError, match="holds no encoder"):
        load_backbone(folder)


def test_a_missing_data_file_is_an_error(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    state = folder / "state"
    if (state / "manifest.ocdbt").exists():
        for data in [*state.glob("d/*"), *state.glob("ocdbt.process_*/d/*")]:
            data.unlink()
    else:
        (state / "target.token_embedder.embedding" / "0.0").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_backbone(folder)


def test_an_unfinished_save_is_refused(checkpoint, tmp_path):
    name = "checkpoint_6.orbax-checkpoint-tmp"
    with pytest.raises(InputError, match="did not finish"):
        load_backbone(shutil.copytree(checkpoint, tmp_path / name))


@pytest.mark.t5x
def test_what_t5xs_own_manager_saves_is_read(tmp_path):
    from jax.sharding import PartitionSpec
    from t5x import adafactor, checkpoints, partitioning
    from t5x.train_state import FlaxOptimTrainState

    params = random_parameters(CONFIG)
    optimizer = adafactor.Adafactor(learning_rate=0.1)
    state = FlaxOptimTrainState(optimizer.create(params))

    class Partitioner(partitioning.PjitPartitioner):
        # A network's parameters alone carry no logical axes.
        def get_mesh_axes(self, train_state):
            import jax

            state = jax.tree.map(lambda x: PartitionSpec(), train_state.state_dict())
            return train_state.restore_state(state)

    partitioner = Partitioner(num_partitions=1)
    manager = checkpoints.OrbaxCheckpointManagerInterface(str(tmp_path), state, partitioner)
    manager.save(state)
    manager.close()
    config, loaded = load_backbone(tmp_path / "checkpoint_0")
    assert config == CONFIG
    check_equal(loaded, params)
