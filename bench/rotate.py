"""The loop of the common guide to encrypting PII in Python: SQLAlchemy's ORM, offset and limit, a commit a batch, Fernet.

Two encrypted columns, and a search hash that stays as it is. Fills its table, then rotates it once a line of standard input, and answers with the seconds of the loop alone.
Usage: rotate.py URL ROWS BATCH
"""

import sys
import time
from hashlib import sha256

from cryptography.fernet import Fernet
from sqlalchemy import Integer, Text, create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "guide_customers"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    email: Mapped[str] = mapped_column(Text)
    phone: Mapped[str] = mapped_column(Text)
    # For search; a rotation leaves it as it is.
    email_hash: Mapped[str] = mapped_column(Text, index=True)


def fill(engine, rows, cipher):
    Base.metadata.create_all(engine)
    seal = lambda text: cipher.encrypt(text.encode()).decode()
    search = lambda i: sha256(f"person{i}@example.com".encode()).hexdigest()
    with Session(engine) as session:
        for start in range(0, rows, 10_000):
            numbers = range(start, min(start + 10_000, rows))
            session.execute(
                insert(Customer),
                [
                    {"id": i, "email": seal(f"person{i}@example.com"), "phone": seal(f"+31 6 {i:08}"), "email_hash": search(i)}
                    for i in numbers
                ],
            )
        session.commit()


def rotate(session, old, new, batch):
    offset = 0
    while True:
        customers = session.query(Customer).order_by(Customer.id).offset(offset).limit(batch).all()
        if not customers:
            return
        for customer in customers:
            customer.email = new.encrypt(old.decrypt(customer.email.encode())).decode()
            customer.phone = new.encrypt(old.decrypt(customer.phone.encode())).decode()
        session.commit()
        offset += batch


def main():
    url, rows, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # As PostgreSQL's own default, whatever the server says, and as the other side does it: a commit is on the disk.
    durable = {"options": "-c synchronous_commit=on"}
    engine = create_engine(url.replace("postgres://", "postgresql+psycopg://"), connect_args=durable)
    cipher = Fernet(Fernet.generate_key())
    fill(engine, rows, cipher)
    print("filled", flush=True)
    for _ in sys.stdin:
        new = Fernet(Fernet.generate_key())
        start = time.perf_counter()
        with Session(engine) as session:
            rotate(session, cipher, new, batch)
        print(time.perf_counter() - start, flush=True)
        cipher = new


main()
