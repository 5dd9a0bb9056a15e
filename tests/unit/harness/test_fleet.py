"""Which machines send the load, by the words of the command line."""

import pytest

from harness.cli.worker import Address, fleet_of
from harness.errors import UsageError
from harness.records import Fleet

URL = "http://10.0.0.1:8000"


def named(**changes) -> Fleet | None:
    options = {"hosts": None, "expect_workers": None, "bind": None, "bind_port": 5557, "url": URL}
    return fleet_of(**(options | changes))


def test_without_a_word_this_machine_sends_all():
    assert named() is None


def test_hosts_are_started_over_ssh_and_expected_workers_are_not():
    assert named(hosts="one,two", bind="10.0.0.9") == Fleet(bind="10.0.0.9", port=5557, workers=2, hosts=("one", "two"))
    assert named(expect_workers=3, bind="10.0.0.9") == Fleet(bind="10.0.0.9", port=5557, workers=3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bind": "10.0.0.9"}, "goes with"),
        ({"hosts": "one", "expect_workers": 1, "bind": "10.0.0.9"}, "not both"),
        ({"hosts": "one"}, "where to find"),
        ({"hosts": ",", "bind": "10.0.0.9"}, "no list of hosts"),
        ({"hosts": "-oProxyCommand=x", "bind": "10.0.0.9"}, "no list of hosts"),
        ({"hosts": "one", "bind": "10.0.0.9", "url": None}, "loopback"),
        ({"hosts": "one", "bind": "10.0.0.9", "url": "http://localhost:8000"}, "loopback"),
        ({"hosts": "one", "bind": "10.0.0.9", "url": "http://127.0.0.2:8000"}, "loopback"),
    ],
)
def test_what_cannot_work_is_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        named(**changes)


@pytest.mark.parametrize(
    ("text", "address"),
    [("host", ("host", 5557)), ("10.0.0.1:99", ("10.0.0.1", 99)), ("[fe80::1]:7", ("fe80::1", 7))],
)
def test_an_address_may_leave_out_the_port(text, address):
    assert Address().convert(text, None, None) == address


@pytest.mark.parametrize("text", ["", ":5557", "host:port", "host:99999"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(Exception, match="is not an address"):
        Address().convert(text, None, None)
