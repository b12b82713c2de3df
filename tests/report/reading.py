"""What a browser finds in a page, for tests without a browser."""

import html.parser

HOSTILE = '</script><script>alert(1)</script><img src="http://x/" onerror="alert(2)"><!--'


class Read(html.parser.HTMLParser):
    """What a browser finds: elements, external links, ids, and each section's text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.sections, self.data, self.handlers, self._at, self._data = (
            [],
            [],
            [],
            {},
            "",
            [],
            None,
            False,
        )
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [v for k, v in attrs.items() if k in ("src", "href", "action", "data", "srcset") and not v.startswith("#")]
        self.handlers += [k for k in attrs if k.startswith("on")]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "section":
            self._at = attrs["id"]
        self._data = attrs.get("id") == "traces"

    def handle_data(self, text):
        self.data += text if self._data else ""
        if self._at:
            self.sections[self._at] = self.sections.get(self._at, "") + text

    def handle_endtag(self, tag):
        if tag == "section":
            self._at = None
        self._data = False
