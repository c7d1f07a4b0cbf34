"""A route by a label that the model has not is refused when the worker starts, as `check` refuses it."""

import pytest

from stream_classifier import config
from stream_classifier.errors import ConfigError
from stream_classifier.stream.sources import check_routes


def test_a_route_by_a_label_the_model_has_not_is_refused() -> None:
    arguments = {"model": "null", "source": "s", "sink": "t", "route": {"label": {"evn": "evens"}}}
    settings = config.classifier_from_arguments(arguments)
    with pytest.raises(ConfigError, match=r"route\.label\.evn: the model has no such label; did you mean 'even'"):
        check_routes(settings, ("even", "odd"))
    check_routes(settings, ("evn", "odd"))
