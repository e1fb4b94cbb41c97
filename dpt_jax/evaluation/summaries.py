"""Metrics as they are logged: numbers, and what else TensorBoard shows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpt_jax.data.tasks import imported_seqio


def told_apart(
    metrics: Mapping[str, Any],
) -> tuple[dict[str, float], dict[str, Any], dict[str, str]]:
    """Parts what a task's metrics say into what can be compared, shown, and neither.

    Args:
      metrics: numbers or `seqio.metrics.MetricValue`s by name.

    Returns:
      Numbers; `tensorboard` summary values without a tag, as `tf.summary` would write them; and
      for each of the rest why it is left out. A scalar that is not finite is a number.
    """
    numbers: dict[str, float] = {}
    shown: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    scalar = seqio.metrics.Scalar if (seqio := imported_seqio()) else ()
    for name, value in metrics.items():
        try:
            plain = value.value if isinstance(value, scalar) else value
            if isinstance(plain, str | bytes):
                raise TypeError("a text is a metric as seqio.metrics.Text")
            summary = _summary_of(plain)
            if summary is None:
                numbers[name] = float(np.asarray(plain))
            else:
                shown[name] = summary
        # These values are the task's own, and the libraries that encode them have many errors.
        except Exception as e:
            left_out[name] = f"{type(value).__name__}: {str(e).partition(chr(10))[0]}"
    return numbers, shown, left_out


def _summary_of(value: Any) -> Any:
    """A summary value; None for what is no `MetricValue` but, if anything, a number."""
    seqio = imported_seqio()
    if seqio is None:
        return None
    metrics = seqio.metrics
    if isinstance(value, metrics.Text):
        from tensorboard.plugins.text.summary_v2 import text_pb

        text = value.textdata
        return text_pb("", text if isinstance(text, str) else text.decode()).value[0]
    if isinstance(value, metrics.Histogram):
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb

        return histogram_pb("", value.values, buckets=value.bins).value[0]
    if isinstance(value, metrics.Image):
        return _image(value)
    if isinstance(value, metrics.Audio):
        return _audio(value)
    if isinstance(value, metrics.Generic):
        return _value(value.tensor, value.metadata.SerializeToString())
    return None


def _image(value: Any) -> Any:
    """Images `[k, height, width, channels]`: their size, and then each as PNG."""
    import tensorflow as tf
    from tensorboard.plugins.image.metadata import create_summary_metadata

    images = tf.image.convert_image_dtype(value.image, tf.uint8, saturate=True)
    _, height, width, _ = images.shape
    encoded = [tf.io.encode_png(image).numpy() for image in images[: value.max_outputs]]
    data = np.array([b"%d" % width, b"%d" % height, *encoded], object)
    return _value(data, create_summary_metadata(display_name=None, description=None))


def _audio(value: Any) -> Any:
    """Sounds `[k, frames, channels]` as WAV, each with an empty label."""
    import tensorflow as tf
    from tensorboard.plugins.audio import metadata

    sounds = tf.convert_to_tensor(value.audiodata, tf.float32)
    if len(sounds.shape) != 3:
        raise ValueError(f"it has shape {sounds.shape}, not [sounds, frames, channels]")
    encoded = [
        tf.audio.encode_wav(sound, value.sample_rate).numpy()
        for sound in sounds[: value.max_outputs]
    ]
    data = np.array([[sound, b""] for sound in encoded], object).reshape(-1, 2)
    wav = metadata.Encoding.Value("WAV")
    return _value(
        data, metadata.create_summary_metadata(display_name=None, description=None, encoding=wav)
    )


def _value(tensor: Any, metadata: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.util.tensor_util import make_tensor_proto

    if isinstance(metadata, bytes):
        metadata = SummaryMetadata.FromString(metadata)
    return Summary.Value(metadata=metadata, tensor=make_tensor_proto(np.asarray(tensor)))
