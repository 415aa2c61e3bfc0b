"""The invented App Store of the sandbox: a pure function of app, storefront and day, so tests can compute the truth.

Any number is a developer with three to five apps; an app's number is its developer's with 77 and one digit appended.
The first app gets reviews on most days, the second is paid, rarely reviewed and not sold in jp, the third is for the
Mac and has neither ratings nor reviews, the others get so many reviews that the newest 500 reach back about a month.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from crawlfleet.core.vendor_data import App, Figures

STOREFRONTS = ("us", "gb", "de", "fr", "jp", "cn")
DEVELOPERS = ("9990001", "9990002")  # their apps are in the charts
CHART_LENGTH = 100
CURRENCIES = {"us": "USD", "gb": "GBP", "jp": "JPY", "cn": "CNY"}
APP_NUMBER = re.compile(r"([0-9]{1,12})77([0-9])")
GENRES = (("Games", 6014), ("Finance", 6015), ("Productivity", 6007), ("Utilities", 6002))
WORDS = ("Farm", "Owl", "Rocket", "Garden", "Chess", "Recipe", "Radio", "Trail")
SAYINGS = (
    "Great fun, ads are rare.",
    "Since the update it closes at once.\nPlease fix.",
    "很好玩，但广告偏多。",
    "Needs 🙂",
)


@dataclass(frozen=True, slots=True)
class StoreApp:
    """One invented app."""

    number: str
    developer: str
    index: int

    @property
    def name(self) -> str:
        return f"{WORDS[_hash('name', self.number) % len(WORDS)]} {self.index + 1}"

    @property
    def is_mac(self) -> bool:
        return self.index == 2

    @property
    def price(self) -> float:
        return 4.99 if self.index == 1 else 0.0

    @property
    def genre(self) -> tuple[str, int]:
        return GENRES[_hash("genre", self.number) % len(GENRES)]

    @property
    def released(self) -> date:
        return date(2024, 1, 1) + timedelta(_hash("released", self.number) % 300)

    def is_sold_in(self, country: str) -> bool:
        return not (self.index == 1 and country == "jp")

    def version(self, day: date) -> str:
        return f"{1 + (day - self.released).days // 100}.{(day - self.released).days // 10 % 10}.0"

    def ratings(self, country: str, day: date) -> int:
        if self.is_mac:
            return 0
        return 1000 + _hash("ratings", self.number, country) % 9000 + (day - self.released).days * 7

    def average_rating(self, country: str) -> float:
        return 0.0 if self.is_mac else 3 + _hash("average", self.number, country) % 200 / 100


@dataclass(frozen=True, slots=True)
class Review:
    """One invented review; `moment` is in UTC."""

    review_id: str
    moment: datetime
    rating: int
    title: str
    content: str
    author: str
    version: str
    votes: int


def apps_of(developer: str) -> list[StoreApp]:
    """The apps of a developer."""
    return [StoreApp(f"{developer}77{index}", developer, index) for index in range(3 + _hash("count", developer) % 3)]


def app_of(number: str) -> StoreApp | None:
    """The app of this number; None when it is no app's."""
    match = APP_NUMBER.fullmatch(number)
    return next((app for app in apps_of(match[1]) if app.number == number), None) if match else None


def reviews_of_day(app: StoreApp, country: str, day: date) -> list[Review]:
    """The reviews of a day in UTC, newest first."""
    if day < app.released or not app.is_sold_in(country):
        return []
    dice = _hash("reviews", app.number, country, day)
    count = (dice % 4, int(dice % 10 == 0), 0, 12 + dice % 9, 12 + dice % 9)[app.index]
    found = [_review(app, country, day, place) for place in range(count)]
    return sorted(found, key=lambda review: review.moment, reverse=True)


def newest_reviews(app: StoreApp, country: str, now: datetime) -> Iterator[Review]:
    """All reviews up to this moment, newest first."""
    day = now.date()
    while day >= app.released:
        yield from (review for review in reviews_of_day(app, country, day) if review.moment <= now)
        day -= timedelta(1)


def chart_of(country: str, chart: str, day: date) -> list[str]:
    """The numbers of the hundred apps in `top-free` or `top-paid`, best first."""
    places = [f"888{place:04}770" for place in range(CHART_LENGTH)]
    for app in (app for developer in DEVELOPERS for app in apps_of(developer)):
        place = _hash("rank", app.number, country, chart, day) % (CHART_LENGTH + 30)  # some days it is not in
        if (app.price > 0) == (chart == "top-paid") and place < CHART_LENGTH and not app.is_mac:
            places[place] = app.number
    return places


# What a correct source reads of it


def expected_apps(developer: str) -> list[App]:
    """The developer's apps, as the storefront us describes them."""
    return [
        App(
            f"id{app.number}",
            app.name,
            "mac" if app.is_mac else "ios",
            "USD",
            extra={
                "bundle_id": f"com.sandbox.a{app.number}",
                "developer": f"Studio {developer}",
                "developer_id": int(developer),
                "genre": app.genre[0],
                "url": f"https://apps.apple.com/us/app/id{app.number}",
                "released_at": f"{app.released}T08:00:00Z",
            },
        )
        for app in apps_of(developer)
    ]


def expected_details(app: StoreApp, country: str, day: date) -> Figures:
    """The row of app_details; the third app's record lacks what a Mac app's often lacks."""
    extra = {
        "name": app.name,
        "version": app.version(day),
        "average_user_rating": app.average_rating(country),
        "user_rating_count": app.ratings(country, day),
        "price": app.price,
        "currency": CURRENCIES.get(country, "EUR"),
        "genre": app.genre[0],
        "genres": [app.genre[0]],
        "content_rating": "4+",
        "size_bytes": 50_000_000 + _hash("size", app.number) % 10**8,
        "released_at": f"{app.released}T08:00:00Z",
    }
    if not app.is_mac:
        extra |= {"minimum_os": "16.0", "languages": ["EN", "DE"]}
    return Figures(day, country=country, extra=extra)


def expected_reviews(app: StoreApp, country: str, start: date, end: date) -> list[Figures]:
    """The rows of reviews, newest first, for days that are over."""
    return [
        Figures(
            end - timedelta(back),
            country=country,
            dimensions={"review_id": review.review_id},
            extra={
                "rating": review.rating,
                "vote_sum": review.votes,
                "vote_count": review.votes + 1,
                "title": review.title,
                "content": review.content,
                "author": review.author,
                "version": review.version,
            },
        )
        for back in range((end - start).days + 1)
        for review in reviews_of_day(app, country, end - timedelta(back))
    ]


def expected_rank(app: StoreApp, country: str, chart: str, day: date) -> list[Figures]:
    """The row of a chart's report, none when the app is not in the chart."""
    places = chart_of(country, chart, day)
    return [Figures(day, country=country, extra={"rank": places.index(app.number) + 1})] if app.number in places else []


def _review(app: StoreApp, country: str, day: date, place: int) -> Review:
    dice = _hash("review", app.number, country, day, place)
    moment = datetime.combine(day, time(), UTC) + timedelta(seconds=dice % 86_400)
    content = SAYINGS[dice % len(SAYINGS)]
    return Review(
        str(dice), moment, 1 + dice % 5, content[:8], content, f"user_{dice % 9973}", app.version(day), dice % 9
    )


def _hash(*key: object) -> int:
    text = "\x1f".join(str(part) for part in ("apple", *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
