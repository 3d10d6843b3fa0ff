"""A small model of ksmd, to run the governor's decisions against memory of known contents.

It has what the governor depends on: the order of the scan, where processes come in, checksums,
the two trees, smart_scan, batches and the time between them. A page costs the same at each visit.
"""

from dataclasses import dataclass, field

PAGE_SECONDS = 2e-6
SKIPS = ((3, 1), (5, 2), (8, 4), (256, 8))  # ages below the first number; skip_age() of the kernel


@dataclass(eq=False)
class Page:
    """A page of memory, and what ksmd knows of it."""

    content: object
    checksum: object = None
    age: int = 0
    skips: int = 0
    merged: bool = False
    unshared: bool = False  # it was found alone when it was last looked at


@dataclass
class Ksmd:
    """KSM of a host: `processes` are lists of pages, in the order of the scan."""

    processes: list[list[Page]] = field(default_factory=list)
    knobs: dict[str, int] = field(
        default_factory=lambda: {
            "run": 0, "smart_scan": 1, "pages_to_scan": 100, "sleep_millisecs": 20
        }
    )  # fmt: skip
    stable: dict[object, int] = field(default_factory=dict)  # content: number of pages merged
    unstable: dict[object, Page] = field(default_factory=dict)
    process: int = 0  # the cursor
    page: int = 0
    full_scans: int = 0
    scanned: int = 0
    cpu: float = 0.0
    clock: float = 0.0
    sleeps_until: float = 0.0
    broken: int = 0  # merged pages that were written to

    # --- memory ---

    def arrive(self, contents):
        """A process comes in just before the cursor; between two scans, that is at the end."""
        pages = [Page(content) for content in contents]
        if self.process == 0 and self.page == 0:
            self.processes.append(pages)
        else:
            self.processes.insert(self.process, pages)
            self.process += 1
        return pages

    def leave(self, pages):
        """A process ends."""
        index = next(n for n, each in enumerate(self.processes) if each is pages)
        for page in pages:
            self._break(page)
        del self.processes[index]
        if index < self.process:
            self.process -= 1
        elif index == self.process:
            self.page = 0
        gone = {id(page) for page in pages}
        self.unstable = {c: p for c, p in self.unstable.items() if id(p) not in gone}

    def write(self, page, content):
        """Change a page. A merged one is broken."""
        self.broken += page.merged
        self._break(page)
        page.content = content

    def _break(self, page):
        if page.merged:
            page.merged = False
            self.stable[page.content] -= 1
            if not self.stable[page.content]:
                del self.stable[page.content]

    # --- counters ---

    @property
    def saved(self):
        return sum(self.stable.values()) - len(self.stable)

    @property
    def candidates(self):
        return sum(map(len, self.processes)) + self.broken

    @property
    def volatile(self):
        return sum(not page.merged and not page.unshared for page in self._pages())

    def limit(self):
        """How many pages could be saved now."""
        every = [page.content for page in self._pages()]
        return len(every) - len(set(every))

    def _pages(self):
        return (page for pages in self.processes for page in pages)

    # --- the thread ---

    def advance(self, seconds):
        """Let time pass."""
        end = self.clock + seconds
        while self.knobs["run"] and self.processes:
            self.clock = max(self.clock, self.sleeps_until)
            if self.clock >= end:
                break
            spent = self._batch() * PAGE_SECONDS
            self.cpu += spent
            self.sleeps_until = self.clock + spent + self.knobs["sleep_millisecs"] / 1000
        self.clock = max(end, self.clock if self.knobs["run"] else end)

    def _batch(self):
        for done in range(self.knobs["pages_to_scan"]):
            page = self._next()
            if page is None:
                return done
            self.scanned += 1
            self._visit(page)
        return self.knobs["pages_to_scan"]

    def _next(self):
        """Return the next page that is not skipped; None at the end of a full scan."""
        while self.process < len(self.processes):
            pages = self.processes[self.process]
            while self.page < len(pages):
                page = pages[self.page]
                self.page += 1
                if not self._skipped(page):
                    return page
            self.process, self.page = self.process + 1, 0
        self.process = self.page = 0
        self.full_scans += 1
        self.unstable = {}
        return None

    def _skipped(self, page):
        if not self.knobs["smart_scan"] or page.merged:
            return False
        page.age = min(255, page.age + 1)
        if page.age <= 3:
            return False
        if not page.skips:
            page.skips = next(skips for below, skips in SKIPS if page.age - 1 <= below)
            return False
        page.unshared = False
        page.skips -= 1
        return True

    def _visit(self, page):
        if page.merged:
            return
        page.unshared = False
        if page.checksum != page.content:
            page.checksum = page.content
            return
        if page.content in self.stable:
            self._merge(page)
        elif page.content in self.unstable:
            other = self.unstable.pop(page.content)
            if other.content == page.content:
                self._merge(other)
                self._merge(page)
        else:
            self.unstable[page.content] = page
            page.unshared = True

    def _merge(self, page):
        page.merged, page.unshared = True, False
        self.stable[page.content] = self.stable.get(page.content, 0) + 1
