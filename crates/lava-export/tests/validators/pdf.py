"""PDF: checked by qpdf (in pikepdf), read by poppler's pdftotext, and held against the session's report.html."""
import html.parser
import pathlib
import re
import subprocess
import sys

import pikepdf

# What runs, opens, fetches or carries something.
ACTIVE = {"/JS", "/JavaScript", "/OpenAction", "/AA", "/URI", "/Launch", "/EmbeddedFiles", "/AcroForm", "/Annots", "/GoToR", "/SubmitForm"}


class Words(html.parser.HTMLParser):
    """The words that a reader of the page sees."""

    SKIPPED = {"head", "style", "svg", "nav"}

    def __init__(self):
        super().__init__()
        self.words, self.skipped = [], []

    def handle_starttag(self, tag, attributes):
        if tag in self.SKIPPED or ("class", "skip") in attributes:
            self.skipped.append(tag)

    def handle_endtag(self, tag):
        if self.skipped and self.skipped[-1] == tag:
            self.skipped.pop()

    def handle_data(self, data):
        if not self.skipped:
            self.words += data.split()


def is_there(word, text):
    """True if the word stands in the text, whole or broken at the ends of a few lines."""
    whole, pieces = word, 0
    while word:
        length = next((n for n in range(len(word), 0, -1) if word[:n] in text), 0)
        if not length:
            return False
        word, pieces = word[length:], pieces + 1
    return pieces <= 4 + len(whole) // 30


path = pathlib.Path(sys.argv[1])
with pikepdf.open(path) as pdf:
    problems = pdf.check_pdf_syntax() if hasattr(pdf, "check_pdf_syntax") else pdf.check()
    assert not problems, problems
    for thing in pdf.objects:
        if isinstance(thing, (pikepdf.Dictionary, pikepdf.Stream)):
            assert not ACTIVE & set(thing.keys()), thing
    pages = len(pdf.pages)
    with pdf.open_outline() as outline:
        marks = [item.title for item in outline.root]
for section in ["Kill chain", "What happened", "Decisions", "Timeline", "Evidence behind each node", "Processes", "Network", "Files", "Artifacts", "Session"]:
    assert section in marks, marks

read = subprocess.run(["pdftotext", "-raw", "-enc", "UTF-8", path, "-"], capture_output=True, check=True)
assert not read.stderr, read.stderr
# pdftotext itself puts marks around words that are read from right to left (in the drawn graph); LAVA lets none through.
text = re.sub("[\u202a-\u202c]", "", read.stdout.decode())
bad = re.search("[\x00-\x09\x0b\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff]", text)
assert not bad, (bad, text[max(0, bad.start() - 40) : bad.start() + 10])

# Every word of the page is on the paper. A long one may be broken; one in letters that the font lacks is spelled in escapes.
squeezed = re.sub(r"\s", "", text)
page = Words()
page.feed((path.parent / "report.html").read_text(encoding="utf-8"))
wanted = {word for word in page.words if word.isascii()}
missing = [word for word in wanted if not is_there(word, squeezed)]
assert len(wanted) > 100 and not missing, (len(wanted), sorted(missing)[:20])
print(f"valid: {pages} pages, {len(wanted)} words")
