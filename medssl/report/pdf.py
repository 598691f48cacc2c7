"""The page as PDF, printed by a browser of the Chromium family, so that no second renderer has to agree with the first."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from medssl.atomic import replacing
from medssl.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
SECONDS = 120


def find_browser() -> str:
    """The path of the first browser there is. Raises UserError where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise UserError(
            f"--pdf: no browser found that can print (looked for {', '.join(BROWSERS)}); install Chromium, or open "
            "report.html and print it"
        )
    return found


def write_pdf(page: Path) -> Path:
    """The path of a PDF beside `page`, of its print style, all folded parts open.

    Raises UserError where no browser is installed, or where it fails or takes longer than two minutes; an older PDF stays.
    """
    browser, path = find_browser(), page.with_suffix(".pdf")
    with replacing(path) as part, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Nothing on the page asks for a network; nor may the browser itself.
        command = [
            browser, "--headless=new", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--no-pdf-header-footer", f"--print-to-pdf={part.resolve()}",
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium refuses to run as root with one
        try:
            done = subprocess.run(
                [*command, page.resolve().as_uri()], capture_output=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"--pdf: {browser} took longer than {SECONDS} s; open {page} and print it") from None
        if not part.is_file() or not part.read_bytes().startswith(b"%PDF"):
            why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise UserError(f"--pdf: {browser} wrote no PDF ({why[0]}); open {page} and print it")
    return path
