"""The launcher of private servers keeps its promises."""

from channels_redis.testing.servers import RedisServer


def test_a_private_server_answers_as_soon_as_it_is_started(private_server: RedisServer) -> None:
    """No client has to wait or to try again."""
    assert private_server.command("PING") == b"PONG"
