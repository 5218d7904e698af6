"""Pull requests: their text, their numbers, and the count of messages to come."""

from __future__ import annotations

from sealbus.nats.pull_requests import PullRequests


def test_each_request_has_a_reply_subject_of_its_own() -> None:
    requests = PullRequests("$JS.API.CONSUMER.MSG.NEXT.S.c", "inbox", ending=".pull")
    frames = [requests.next(2, {"max_bytes": 10}), requests.next(1, {"no_wait": True})]
    assert frames == [
        b'PUB $JS.API.CONSUMER.MSG.NEXT.S.c inbox.1.pull 29\r\n{"batch": 2, "max_bytes": 10}\r\n',
        b'PUB $JS.API.CONSUMER.MSG.NEXT.S.c inbox.2.pull 29\r\n{"batch": 1, "no_wait": true}\r\n',
    ]
    assert (requests.made, requests.answers) == (2, "inbox.*.pull")


def test_a_status_of_an_earlier_request_is_not_about_the_last() -> None:
    requests = PullRequests("next", "inbox")
    requests.next(1, {})
    requests.next(1, {})
    assert [requests.is_last(subject) for subject in (b"inbox.1", b"inbox.2")] == [False, True]


def test_a_request_is_over_with_its_last_message() -> None:
    requests = PullRequests("next", "inbox")
    requests.next(2, {})
    assert [requests.brought_all() for _ in range(3)] == [False, True, True]
    requests.next(1, {})
    assert requests.outstanding == 1
