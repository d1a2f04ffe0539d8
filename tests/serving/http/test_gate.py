"""The key, the host's name and the rate."""

import base64
import logging

import pytest

from gtcrec.errors import ConfigError
from gtcrec.serving.http import ServerConfig

KEY = "a-secret-of-32-characters-for-tests"


def test_a_server_with_a_key_answers_only_who_sends_it(serve, ease):
    client = serve(ease, key=KEY, host="0.0.0.0")
    address = "/v1/recommend/u0001"
    assert client.get(address).status_code == 401
    assert client.get(address, headers={"X-API-Key": KEY[:-1]}).status_code == 401
    assert client.get(address, headers={"X-API-Key": "schlüssel".encode()}).status_code == 401
    assert client.get(address, headers={"X-API-Key": KEY}).status_code == 200


@pytest.mark.parametrize("address", ["/openapi.json", "/metrics", "/v1/experiments", "/nowhere"])
def test_every_address_but_health_needs_the_key(serve, ease, address):
    client = serve(ease, key=KEY)
    assert client.get(address).status_code == 401
    assert client.get("/health/live").status_code == 200


def test_a_browser_gives_the_key_as_the_password_of_a_login(serve, ease):
    client = serve(ease, key=KEY)
    assert client.get("/metrics").headers["www-authenticate"] == 'Basic realm="gtcrec"'
    assert client.get("/metrics", auth=("anyone", KEY)).status_code == 200
    assert client.get("/metrics", auth=("anyone", "wrong")).status_code == 401
    broken = base64.b64encode(b"\xff:\xff").decode()
    assert client.get("/metrics", headers={"Authorization": f"Basic {broken}"}).status_code == 401


def test_without_a_key_a_name_of_another_site_is_refused(serve, ease):
    client = serve(ease)
    assert client.get("/health/live", headers={"Host": "rebound.example:8000"}).status_code == 400
    assert client.get("/health/live", headers={"Host": "localhost:8000"}).status_code == 200


def test_an_open_address_without_a_key_is_refused():
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 can be reached by other machines: expected a key"):
        ServerConfig("run", host="0.0.0.0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key": "short"}, "at least 16 characters"),
        ({"max_n": 0}, "max_n must be at least 1, found 0"),
        ({"rate": float("nan")}, "rate must be at least 0, found nan"),
        ({"port": 70_000}, r"port must lie in \[0, 65535\], found 70000"),
        ({"variants": (("b", 0.6), ("c", 0.5))}, "must add up to less than 1"),
        ({"variants": (("b", 1.5),)}, "the share of a variant must lie between 0 and 1, found 1.5"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        ServerConfig("run", **settings)


def test_a_client_over_its_rate_waits_and_others_do_not_notice(serve, ease):
    client = serve(ease, rate=3)
    answers = [client.get("/health/live") for _ in range(5)]
    assert [answer.status_code for answer in answers[:3]] == [200, 200, 200]
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "1"


def test_the_key_stands_in_no_log_and_no_text_of_the_settings(serve, ease, caplog):
    caplog.set_level(logging.DEBUG)
    client = serve(ease, key=KEY)
    client.get("/v1/recommend/u0001", headers={"X-API-Key": KEY})
    client.get("/v1/recommend/u0001", headers={"X-API-Key": KEY + "x"})
    assert KEY not in caplog.text
    assert KEY not in repr(ServerConfig("run", key=KEY))
