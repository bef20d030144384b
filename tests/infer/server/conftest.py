"""A tiny chat model, its engine and a server with default settings, which all tests of the server share."""

import pytest
from served import engine_thread, serving, tiny_chat_model


@pytest.fixture(scope="session")
def chat_dir(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def thread(chat_dir):
    thread = engine_thread(chat_dir)
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def server(thread, chat_dir):
    with serving(thread, chat_dir) as server:
        yield server
