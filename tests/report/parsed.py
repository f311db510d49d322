"""A report page as a test reads it."""

import html.parser
import re

from jprune.report import write_report

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Checks that tags nest; collects tables (by preceding text), attributes and text."""

    def __init__(self, source):
        super().__init__()
        self.open, self.attributes, self.words, self.tables = [], [], [], []
        self.tags = set()
        self.feed(source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, *a) for a in attrs]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
            self.gone = ("class", "gone") in attrs
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *a) for a in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def table(self, *header):
        return next(t[1:] for t in self.tables if tuple(t[0][: len(header)]) == header)


def report(workdir):
    write_report(workdir)
    return Page((workdir / "report.html").read_text())
