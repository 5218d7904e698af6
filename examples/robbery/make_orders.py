"""Makes ``orders.jsonl``, with the same 1,200 orders each time.

Run it with ``python -m examples.robbery.make_orders``.
"""

from __future__ import annotations

import json
import random  # noqa: TID251  # seeded below: the same file each time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("orders.jsonl")
COUNT = 1200

ARTICLES = {
    "TEA-0001": 495,
    "TEA-0002": 1250,
    "COF-0007": 899,
    "COF-0012": 2150,
    "MUG-0100": 1400,
    "MUG-0101": 1650,
    "KET-0300": 6999,
    "GRN-0042": 15900,
    "FLT-0005": 350,
    "BIS-0900": 275,
    "HON-0033": 780,
    "ROB-2000": 129900,
}

PEOPLE = (
    ("Aoife O'Brien", "12 Harbour Rd", "Dún Laoghaire", "A96 X5C3", "IE"),
    ("Jürgen Müßig", "Große Bleichen 7", "Hamburg", "20354", "DE"),
    ("Zoë Lefèvre", "3 rue de l'Église", "Besançon", "25000", "FR"),
    ("Søren Østergård", "Åboulevard 40", "Aarhus", "8000", "DK"),
    ("Łukasz Żółć", "ul. Święty Marcin 29/8", "Poznań", "61-806", "PL"),
    ("José Ángel Muñoz", "Calle Núñez de Balboa 81, 2º", "Madrid", "28006", "ES"),
    ("Ngũgĩ wa Kamau", "Moi Avenue 5", "Nairobi", "00100", "KE"),
    ("山田 太郎", "神南1丁目19-11", "東京都渋谷区", "150-0041", "JP"),
    ("김민준", "세종대로 110", "서울", "04524", "KR"),
    ("Анна Ковальчук", "вул. Хрещатик 22", "Київ", "01001", "UA"),
    ("Νίκος Παπαδόπουλος", "Ερμού 15", "Αθήνα", "10563", "GR"),
    ("محمد الفاسي", "شارع محمد الخامس 18", "الرباط", "10000", "MA"),
    ("Priya Raghunathan", "14/2 MG Road", "Bengaluru", "560001", "IN"),
    ("D'Angelo Smith-Jones", "1600 5th Ave, Apt #4B", "Seattle", "98101", "US"),
    ("Siân ap Rhys", "Tŷ Gwyn, Heol y Bont", "Aberystwyth", "SY23 1AB", "GB"),
    ("Nguyễn Thị Hoa", "36 Phố Hàng Đào", "Hà Nội", "100000", "VN"),
    ("O", "1", "Å", "36", "NO"),
    (
        "Ximena " + "de la Santísima Trinidad " * 3,
        "Av. 16 de Septiembre 1",
        "Oaxaca",
        "68000",
        "MX",
    ),
)

NOTES = (
    "",
    "Please leave with the neighbour.",
    "Bitte klingeln, 3. Stock.",
    "🎁 Gift wrap, please! 🎉",
    "Line one\nline two\ttabbed",
    'He said "no plastic" & <b>meant</b> it; 100% \\ really',
    "'); DROP TABLE orders;--",
    "配達は午後6時以降にお願いします。",
    "e\u0301 decomposed, \u00e9 composed, \u200b zero width, \u202eright to left",
    "x" * 500,
)


def make_orders(count: int) -> list[dict[str, Any]]:
    """``count`` orders, the same each time."""
    rng = random.Random(2026)
    begin = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
    orders = []
    for number in range(1, count + 1):
        name, street, city, postcode, country = rng.choice(PEOPLE)
        lines = 20 if number % 100 == 0 else min(len(ARTICLES), 1 + int(rng.expovariate(0.6)))
        skus = (
            rng.choices(list(ARTICLES), k=lines)
            if lines > len(ARTICLES)
            else rng.sample(list(ARTICLES), k=lines)
        )
        order: dict[str, Any] = {
            "order_id": f"ord-{number:06d}",
            "customer": f"cus-{rng.randint(1, 9999):04d}",
            "placed_at": (begin + timedelta(seconds=number * 37))
            .isoformat()
            .replace("+00:00", "Z"),
            "currency": rng.choice(("EUR", "EUR", "GBP", "USD")),
            "items": [
                {
                    "sku": sku,
                    "quantity": 100 if rng.random() < 0.01 else 1 + int(rng.expovariate(0.8)),
                    "unit_price_cents": ARTICLES[sku],
                }
                for sku in skus
            ],
            "ship_to": {
                "name": name.strip(),
                "street": street,
                "city": city,
                "postcode": postcode,
                "country": country,
            },
        }
        if rng.random() < 0.4:
            order["note"] = rng.choice(NOTES)
        orders.append(order)
    return orders


def main() -> None:
    """Write the file."""
    lines = [
        json.dumps(order, ensure_ascii=False, separators=(",", ":")) + "\n"
        for order in make_orders(COUNT)
    ]
    FILE.write_text("".join(lines), encoding="utf-8")
    print(f"{FILE.name}: {COUNT} orders, {FILE.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
