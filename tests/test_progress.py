from medssl import progress


def test_items_pass_through_and_plain_lines_are_told_where_there_is_no_terminal(capsys):
    assert list(progress.shown(range(3), "reading", 5, 2)) == [0, 1, 2]
    assert "reading: 5 of 5" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(progress.shown(["a", "b"], "reading", 2)) == ["a", "b"]
    assert "reading" in capsys.readouterr().err


def test_silence(capsys):
    assert list(progress.silent("ab", "reading", 2)) == ["a", "b"]
    assert capsys.readouterr().err == ""
