"""A page that we write, read as a browser would, and text that wants to be more than text."""

import html.parser
import re

PICTURE = re.compile(r"data:image/(png|webp);base64,[A-Za-z0-9+/=]*\Z")
HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(1)> \"'& $x^2$ \u202eright to left " + "w" * 200


class Page(html.parser.HTMLParser):
    """Which tags a page has, what they load, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data
