"""Every known answer of the metrics holds, and `pushforward verify` finds them."""

from pushforward.metrics import known_answers
from pushforward.verify import sources


def test_known_answers():
    answers = list(known_answers())
    assert len(answers) >= 12
    for answer in answers:
        assert answer.holds, answer
        assert answer.tolerance <= 0.1 * abs(answer.known), answer  # the comparison means something


def test_verify_finds_them():
    assert "pushforward.metrics" in sources()
