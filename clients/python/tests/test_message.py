import datetime
import decimal
import unittest

import warren
from warren._message import from_proto, to_proto
from warren._proto import message_pb2

UTC = datetime.timezone.utc


def there_and_back(message):
    return from_proto(warren.Message, message_pb2.Message.FromString(to_proto(message).SerializeToString()))


class Messages(unittest.TestCase):
    def test_every_property_comes_back(self):
        message = warren.Message(
            body=b"\x00body",
            routing_key="key",
            exchange="x",
            headers={
                "none": None,
                "bool": True,
                "int": -(1 << 63),
                "text": "ü",
                "bytes": b"\xff",
                "float": 1.5,
                "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
                "decimal": decimal.Decimal("12.345"),
                "list": [1, [None, "x"], {}],
                "table": {"k": {"k": False}},
            },
            content_type="text/plain",
            content_encoding="gzip",
            transient=True,
            priority=0,
            correlation_id="",
            reply_to="r",
            expiration=1.5,
            message_id="m",
            timestamp=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            type="t",
            user_id="guest",
            app_id="a",
            cluster_id="c",
            amqp_encoded=b"\x80\x00\xff",
        )
        self.assertEqual(there_and_back(message), message)

    def test_absent_properties_stay_absent(self):
        self.assertEqual(there_and_back(warren.Message(b"x")), warren.Message(b"x"))
        p = to_proto(warren.Message()).properties
        self.assertEqual(p.delivery_mode, 2)
        self.assertFalse(p.HasField("correlation_id") or p.HasField("priority") or p.HasField("expiration"))

    def test_numbers_keep_their_width(self):
        for kind, value in (
            (warren.Int8, -128),
            (warren.Int16, -32768),
            (warren.Int32, -(1 << 31)),
            (warren.UInt8, 255),
            (warren.UInt16, 65535),
            (warren.UInt32, (1 << 32) - 1),
            (warren.Float32, 0.5),
            (warren.Octets, b"\xff\xfe"),
        ):
            back = there_and_back(warren.Message(headers={"n": kind(value)})).headers["n"]
            self.assertEqual((type(back), back), (kind, value))

    def test_what_cannot_be_sent_is_refused(self):
        for headers, error in (
            ({"n": 1 << 63}, ValueError),
            ({"n": warren.Int8(128)}, ValueError),
            ({"n": warren.UInt16(-1)}, ValueError),
            ({"n": decimal.Decimal("-1")}, ValueError),
            ({"n": decimal.Decimal("NaN")}, ValueError),
            ({"n": decimal.Decimal("4294967296")}, ValueError),
            ({"n": object()}, TypeError),
            ({"l": [object()]}, TypeError),
            ({"n": "\ud800"}, ValueError),
            ({"l": ["\udfff"]}, ValueError),
            ({"n": {"\ud800": 1}}, ValueError),
        ):
            with self.assertRaisesRegex(error, "^[nl]: ", msg=str(headers)):
                to_proto(warren.Message(headers=headers))
        with self.assertRaises(TypeError):
            to_proto(warren.Message(body="text"))

    def test_decimals(self):
        for text in ("0", "1", "1.25", "1E+3", "0.001"):
            back = there_and_back(warren.Message(headers={"d": decimal.Decimal(text)})).headers["d"]
            self.assertEqual(back, decimal.Decimal(text))

    def test_times_and_expirations_that_python_cannot_have(self):
        m = message_pb2.Message()
        m.properties.timestamp_seconds = (1 << 64) - 1
        m.properties.expiration = "soon"
        m.properties.headers["t"].timestamp_value = 1 << 63
        got = from_proto(warren.Message, m)
        self.assertEqual(got.timestamp.year, 9999)
        self.assertEqual(got.headers["t"].year, 9999)
        self.assertIsNone(got.expiration)

    def test_an_expiration_is_never_zero(self):
        self.assertEqual(to_proto(warren.Message(expiration=0.0001)).properties.expiration, "1")


if __name__ == "__main__":
    unittest.main()
