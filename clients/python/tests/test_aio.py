import asyncio
import logging
import unittest
import unittest.mock

import grpc
from fake_node import LIMIT, Cluster, eventually

from warren import aio
from warren._connection import converse, of_call, send
from warren._consumer import ConsumeStream
from warren._proto import consuming_pb2, publishing_pb2

LOCKED = (grpc.StatusCode.FAILED_PRECONDITION, "RESOURCE_LOCKED", "queue 'q' is locked")
LOCKED_BEFORE = (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_REFUSED", "queue 'q' in vhost '/' in exclusive use")
PATIENCE = 300  # seconds for one test


class WithNodes(unittest.IsolatedAsyncioTestCase):
    """Two nodes and a client of both."""

    async def asyncSetUp(self):
        logger = logging.getLogger("test")
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
        self.cluster = Cluster()
        self.nodes = await self.cluster.start(2)
        self.client = aio.Client([n.address for n in self.nodes], logger=logger, reconnect_delay=(0.01, 0.1))
        timeout = asyncio.timeout(PATIENCE)
        await timeout.__aenter__()
        self.addAsyncCleanup(timeout.__aexit__, None, None, None)

    async def asyncTearDown(self):
        await self.client.close()
        for node in self.nodes:
            await node.stop()


class Publishing(WithNodes):
    async def test_outcomes(self):
        self.nodes[0].outcome = {
            b"nowhere": {"outcome": publishing_pb2.OUTCOME_UNROUTABLE},
            b"full": {"outcome": publishing_pb2.OUTCOME_REJECTED, "reason": 13, "detail": "a queue is full"},
        }
        async with self.client.publisher() as publisher:
            await publisher.publish(aio.Message(b"good", "q"))
            with self.assertRaises(aio.UnroutableError):
                await publisher.publish(aio.Message(b"nowhere", "q"))
            with self.assertRaises(aio.RejectedError) as caught:
                await publisher.publish(aio.Message(b"full", "q"))
        self.assertEqual((caught.exception.reason, caught.exception.text), (aio.Reason.QUEUE_FULL, "a queue is full"))
        with self.assertRaises(aio.ClosedError):
            await publisher.publish(aio.Message(b"late", "q"))

    async def test_what_is_not_confirmed_is_published_again_with_its_number(self):
        self.nodes[0].confirm_until = 10
        async with self.client.publisher(producer="p", next_number=7) as publisher:
            outcomes = [await publisher.submit(aio.Message(str(i).encode(), "q")) for i in range(1500)]
        self.assertTrue(all(outcome.exception() is None for outcome in outcomes))
        self.assertEqual(self.cluster.stored, {("p", 7 + i): str(i).encode() for i in range(1500)})
        again = self.nodes[1].batches[0]
        self.assertEqual((again.first_sequence, again.lowest_unconfirmed), (17, 17))

    async def test_publishers_have_names_of_their_own(self):
        for _ in range(2):
            async with self.client.publisher() as publisher:
                await publisher.publish(aio.Message(b"x", "q"))
        self.assertEqual(len(self.cluster.stored), 2)

    async def test_the_window_is_bounded(self):
        self.nodes[0].refuse = self.nodes[1].refuse = (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "no majority")
        publisher = self.client.publisher(max_unconfirmed=3)
        outcomes = [await publisher.submit(aio.Message(b"x", "q")) for _ in range(3)]
        with self.assertRaises(TimeoutError):
            async with asyncio.timeout(0.05):
                await publisher.submit(aio.Message(b"x", "q"))
        self.nodes[0].refuse = self.nodes[1].refuse = None
        outcomes.append(await publisher.submit(aio.Message(b"x", "q")))
        await publisher.close()
        await asyncio.gather(*outcomes)
        self.assertEqual(len(self.cluster.stored), 4)

    async def test_an_outcome_that_is_not_known(self):
        self.nodes[0].refuse = self.nodes[1].refuse = (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "no majority")
        publisher = self.client.publisher()
        outcome = await publisher.submit(aio.Message(b"x", "q"))
        with self.assertRaises(TimeoutError):
            async with asyncio.timeout(0.05):
                await publisher.close()
        with self.assertRaises(aio.OutcomeUnknownError) as caught:
            await outcome
        self.assertIsInstance(caught.exception.__cause__, aio.ClosedError)

    async def test_an_error_that_does_not_pass_ends_the_publisher(self):
        self.nodes[0].refuse = (grpc.StatusCode.UNAUTHENTICATED, "LOGIN_REFUSED", "login was refused")
        publisher = self.client.publisher()
        with self.assertRaises(aio.OutcomeUnknownError) as caught:
            await publisher.publish(aio.Message(b"x", "q"))
        self.assertIsInstance(caught.exception.__cause__, aio.LoginRefusedError)
        with self.assertRaises(aio.LoginRefusedError):
            await publisher.submit(aio.Message(b"x", "q"))

    async def test_a_message_above_the_nodes_limit_is_rejected_by_itself(self):
        sizes = [1, LIMIT + (1 << 20), 2, LIMIT - 100, 1 << 20, LIMIT + (2 << 20), 3]
        publisher = self.client.publisher(producer="p", max_unconfirmed_bytes=100 << 20)
        outcomes = [await publisher.submit(aio.Message(b"x" * size, "q")) for size in sizes]
        await publisher.close()
        rejected = [outcome.exception() for outcome in outcomes]
        reasons = [aio.Reason.PRECONDITION_FAILED if size > LIMIT else None for size in sizes]
        self.assertEqual([getattr(e, "reason", e) for e in rejected], reasons)
        self.assertIsInstance(rejected[1], aio.RejectedError)
        self.assertIn("larger than max", rejected[1].text)
        stored = {number: len(body) for (_, number), body in self.cluster.stored.items()}
        self.assertEqual(stored, {i + 1: size for i, size in enumerate(sizes) if size <= LIMIT})
        self.assertEqual(self.nodes[1].publishes, 0, "nothing is wrong with the node")

    async def test_a_limit_of_the_broker_rejects_no_message(self):
        self.nodes[0].refuse = (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_ERROR", "too many channels")
        publisher = self.client.publisher()
        with self.assertRaises(aio.OutcomeUnknownError) as caught:
            await publisher.publish(aio.Message(b"x" * (LIMIT - 100), "q"))
        self.assertIsInstance(caught.exception.__cause__, aio.ResourceError)

    async def test_batches_are_measured_with_all_that_is_sent(self):
        headers = {f"h{i}": "x" * 1024 for i in range(40)}
        async with self.client.publisher(max_unconfirmed_bytes=100 << 20) as publisher:
            outcomes = [await publisher.submit(aio.Message(b"", "q", headers=headers)) for _ in range(300)]
        self.assertEqual([outcome.exception() for outcome in outcomes], [None] * 300)
        self.assertLessEqual(max(batch.ByteSize() for batch in self.nodes[0].batches), 128 << 10)

    async def test_the_window_counts_all_that_is_sent(self):
        self.nodes[0].refuse = self.nodes[1].refuse = (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "no majority")
        publisher = self.client.publisher(max_unconfirmed_bytes=1000)
        outcome = await publisher.submit(aio.Message(b"", "q", headers={"h": "x" * 1000}))
        waiting = asyncio.create_task(publisher.submit(aio.Message(b"", "q")))
        await asyncio.sleep(0)  # it has begun
        self.assertFalse(waiting.done())
        self.nodes[0].refuse = self.nodes[1].refuse = None
        await outcome
        await waiting
        await publisher.close()

    async def test_a_message_that_cannot_be_sent_is_refused_at_once(self):
        publisher = self.client.publisher()
        good = await publisher.submit(aio.Message(b"good", "q"))
        for message in (
            aio.Message(b"", "\ud800"),
            aio.Message(b"", correlation_id="\ud800"),
            aio.Message(b"", headers={"h": "\ud800"}),
        ):
            with self.assertRaises(ValueError):
                await publisher.submit(message)
        await good
        await publisher.publish(aio.Message(b"good", "q"))
        await publisher.close()
        with self.assertRaises(ValueError):
            self.client.publisher(producer="\ud800")

    async def test_outcomes_are_told_before_flush_returns(self):
        publisher = self.client.publisher()
        told = []
        for i in range(100):
            (await publisher.submit(aio.Message(b"x", "q"))).add_done_callback(told.append)
        await publisher.flush()
        self.assertEqual(len(told), 100)
        await publisher.close()


class Calls(WithNodes):
    async def test_errors_have_code_reason_and_text(self):
        self.nodes[0].refuse = (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "no queue 'q' in vhost '/'")
        with self.assertRaises(aio.NotFoundError) as caught:
            await self.client.inspect_queue("q")
        e = caught.exception
        self.assertEqual(
            (e.code, e.reason, e.text, str(e)),
            (grpc.StatusCode.NOT_FOUND, aio.Reason.NOT_FOUND, "no queue 'q' in vhost '/'", "no queue 'q' in vhost '/'"),
        )
        self.nodes[0].refuse = (grpc.StatusCode.DATA_LOSS, "SOMETHING_NEW", "new")
        with self.assertRaises(aio.BrokerError) as caught:
            await self.client.status()
        self.assertEqual((type(caught.exception), caught.exception.reason), (aio.BrokerError, aio.Reason.UNSPECIFIED))

    async def test_another_node_answers(self):
        self.assertEqual((await self.client.status()).node, self.nodes[0].address)
        await self.nodes[0].stop()
        self.assertEqual((await self.client.status()).node, self.nodes[1].address)

    async def test_credentials_and_vhost_go_with_every_call(self):
        await self.client.status()
        self.assertEqual(self.nodes[0].metadata["authorization"], "Basic Z3Vlc3Q6Z3Vlc3Q=")
        self.assertEqual(self.nodes[0].metadata["warren-vhost"], "/")
        async with aio.Client(self.nodes[0].address, user=None, vhost="v") as other:
            await other.status()
        self.assertNotIn("authorization", self.nodes[0].metadata)
        self.assertEqual(self.nodes[0].metadata["warren-vhost"], "v")
        async with aio.Client(self.nodes[0].address, token="t") as other:
            await other.status()
        self.assertEqual(self.nodes[0].metadata["authorization"], "Bearer t")

    async def test_lists_come_in_pages(self):
        self.assertEqual([x.name async for x in self.client.exchanges()], ["x0", "x1", "x2"])

    async def test_a_closed_client(self):
        self.nodes[0].refuse = self.nodes[1].refuse = (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "no majority")
        calling = asyncio.create_task(self.client.status())
        await asyncio.sleep(0.01)
        await self.client.close()
        with self.assertRaises(aio.ClosedError):
            await calling
        with self.assertRaises(aio.ClosedError):
            await self.client.status()
        with self.assertRaises(aio.ClosedError):
            self.client.publisher()

    async def test_wrong_arguments(self):
        with self.assertRaises(ValueError):
            aio.Client([])
        with self.assertRaises(ValueError):
            self.client.publisher(producer="p", next_number=0)
        with self.assertRaises(ValueError):
            await self.client.consume("q", bindings=[aio.Binding("x")])


class Consuming(WithNodes):
    async def test_what_was_settled_is_sent(self):
        self.cluster.queue = [b"a", b"b", b"c", b"d", b"e"]
        async with await self.client.consume("q") as consumer:
            got = [await consumer.next() for _ in range(5)]
            for delivery, settle in zip(got, ("ack", "requeue", "ack", "fail", "discard")):
                await getattr(delivery, settle)()
            with self.assertRaises(aio.SettledError):
                await got[0].ack()
        self.assertEqual(consumer.queue, "q")
        self.assertEqual(
            self.cluster.settles, [(1, True, 1), (2, False, 2), (3, False, 1), (4, False, 3), (5, False, 4)]
        )
        with self.assertRaises(aio.LostError):
            await (aio.Delivery(b"x", tag=1, settler=got[0].settler)).ack()
        with self.assertRaises(aio.ClosedError):
            await consumer.next()
        self.assertEqual([d async for d in consumer], [])

    async def test_it_goes_on_by_another_node_and_the_topology_is_there(self):
        self.cluster.queue = [b"a", b"b"]
        await self.client.declare_queue("q")
        await self.client.declare_queue()  # the broker's name: not declared again
        await self.client.bind(aio.Binding("x", "q", routing_key="k"))
        await self.client.declare_queue("q")  # once more: the last counts
        consumer = await self.client.consume("q")
        first = await consumer.next()
        self.assertFalse(first.redelivered)
        self.cluster.declared.clear()
        await self.nodes[0].stop()
        await eventually(first.is_stale)
        again = await consumer.next()  # not what is left of the first stream
        self.assertEqual(again.body, b"a")
        self.assertEqual(self.cluster.declared, ["x>q", "q"])
        with self.assertRaises(aio.LostError):
            await first.ack()
        await consumer.close()

    async def test_a_temporary_queue_has_another_name_after_a_lost_connection(self):
        consumer = await self.client.consume(temporary=True, bindings=[aio.Binding("x")])
        self.assertEqual(consumer.queue, "amq.gen-1")
        self.nodes[1].consumes = 4
        await self.nodes[0].stop()
        await eventually(lambda: consumer.queue == "amq.gen-5")
        await consumer.close()

    async def test_it_starts_again_after_a_delivery_that_was_not_settled_in_time(self):
        self.cluster.queue = [b"a"]
        self.nodes[0].refuse_later = (grpc.StatusCode.ABORTED, "DELIVERY_TIMEOUT", "timed out")
        consumer = await self.client.consume("q")
        first = await consumer.next()
        if not first.redelivered:  # the end of its stream may come before it is asked for
            with self.assertRaises(aio.LostError):
                await eventually(first.is_stale)
                await first.ack()
            first = await consumer.next()
        self.assertTrue(first.redelivered)
        await first.ack()
        await consumer.close()
        self.assertEqual(self.cluster.settles, [(1, True, 1)])
        self.assertEqual((self.nodes[0].consumes, self.nodes[1].consumes), (2, 0), "nothing is wrong with the node")

    async def test_a_queue_that_its_own_connection_before_still_locks(self):
        self.cluster.queue = [b"a"]
        consumer = await self.client.consume("q", exclusive=True)
        await consumer.next()
        self.nodes[1].refuse_first = [LOCKED, LOCKED_BEFORE, LOCKED]
        await self.nodes[0].stop()
        self.assertEqual((await consumer.next()).body, b"a")
        self.assertEqual(self.nodes[1].refuse_first, [])
        self.assertEqual((await self.client.status()).node, self.nodes[1].address, "nothing is wrong with the node")
        await consumer.close()

    @unittest.mock.patch("warren._connection._LOCKED_FOR", 0)
    async def test_a_queue_that_stays_locked(self):
        consumer = await self.client.consume("q", exclusive=True)
        self.nodes[1].refuse = LOCKED
        await self.nodes[0].stop()
        with self.assertRaises(aio.ResourceLockedError):
            await consumer.next()

    async def test_a_queue_that_is_locked_at_the_start(self):
        self.nodes[0].refuse = LOCKED
        with self.assertRaises(aio.ResourceLockedError):
            await self.client.consume("q")

    async def test_why_it_cannot_start(self):
        self.nodes[0].refuse = (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_REFUSED", "no")
        with self.assertRaises(aio.AccessRefusedError):
            await self.client.consume("q")

    async def test_why_it_cannot_go_on(self):
        consumer = await self.client.consume("q")
        self.nodes[1].refuse = (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "gone")
        await self.nodes[0].stop()
        with self.assertRaises(aio.NotFoundError):
            await consumer.next()
        with self.assertRaises(aio.NotFoundError):
            async for _ in consumer:
                pass

    async def test_handlers(self):
        self.cluster.queue = [b"good", b"bad", b"last"]
        consumer = await self.client.consume("q")
        seen = []

        async def handler(delivery):
            seen.append(delivery.body)
            if delivery.body == b"bad":
                raise RuntimeError("not now")
            if delivery.body == b"last":
                consumer.stop()

        await consumer.handle(handler)
        await consumer.close()
        self.assertEqual(seen, [b"good", b"bad", b"last"])
        settled = {tag: to for tag, _, to in self.cluster.settles}
        self.assertEqual(settled.get(2), 3)
        self.assertIn(3, settled)

    async def test_a_wait_that_is_given_up_takes_nothing(self):
        consumer = await self.client.consume("q")
        with self.assertRaises(TimeoutError):
            async with asyncio.timeout(0.01):
                await consumer.next()
        self.cluster.queue = [b"a"]
        await self.nodes[0].stop()
        self.assertEqual((await consumer.next()).body, b"a")
        await consumer.close()

    async def test_without_settling_the_program_sets_the_pace(self):
        self.cluster.queue = [b"%d" % i for i in range(50)]
        consumer = await self.client.consume("q", auto_settle=True, credit=5)
        await eventually(lambda: consumer.inbox.qsize() == 5)
        await asyncio.sleep(0.05)
        self.assertEqual(consumer.inbox.qsize(), 5)
        got = [(await consumer.next()).body for _ in range(50)]
        self.assertEqual(got, self.cluster.queue)
        await consumer.close()


class Getting(WithNodes):
    async def test_it_takes_one_message_and_settles_it(self):
        self.cluster.queue = [b"a", b"b"]
        delivery = await self.client.get("q")
        await delivery.ack()
        with self.assertRaises(aio.SettledError):
            await delivery.extend()
        self.assertEqual((delivery.body, self.cluster.settles), (b"a", [(1, False, 1)]))
        self.cluster.queue = []
        self.assertIsNone(await self.client.get("q"))

    async def test_a_message_that_has_come_is_not_lost_with_its_stream(self):
        for queue, got in (([b"a", b"b"], b"a"), ([], None)):
            self.cluster.queue = queue
            self.nodes[0].refuse_later = (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "the node is shutting down")
            delivery = await self.client.get("q", auto_settle=True)
            self.assertEqual(delivery and delivery.body, got)
        self.assertEqual(self.nodes[1].metadata, None, "nothing was asked for again")


class Watch:
    """An interceptor that notes calls, and adds to their metadata."""

    def __init__(self, calls):
        self.calls = calls

    async def intercept(self, continuation, details, request):
        self.calls.append(details.method.decode().rpartition("/")[2])
        details.metadata.add("traceparent", str(len(self.calls)))
        return await continuation(details, request)


class WatchCalls(Watch, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = Watch.intercept


class WatchStreams(Watch, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream = Watch.intercept


class Intercepting(WithNodes):
    async def test_interceptors_see_all_calls_and_streams(self):
        calls = []
        watches = [WatchCalls(calls), WatchStreams(calls)]
        addresses = [n.address for n in self.nodes]
        async with aio.Client(addresses, logger=logging.getLogger("test"), interceptors=watches) as client:
            await client.declare_queue("q")
            async with client.publisher() as publisher:
                await publisher.publish(aio.Message(b"x", "q"))
            self.cluster.queue = [b"a", b"b"]
            consumer = await client.consume("q")
            await (await consumer.next()).ack()
            await (await client.get("q")).ack()
            self.assertEqual((await client.get("q", auto_settle=True)).body, b"a")
            await self.nodes[0].stop()
            self.nodes[1].confirm_until = 1
            async with client.publisher() as publisher:
                outcomes = [await publisher.submit(aio.Message(b"%d" % i, "q")) for i in range(3)]
                await eventually(outcomes[0].done)
                self.nodes[1].confirm_until = None
            self.assertEqual([outcome.exception() for outcome in outcomes], [None] * 3)
            await eventually(lambda: self.nodes[1].consumes == 1)
            await consumer.close()
        self.assertEqual(calls[:5], ["DeclareQueue", "Publish", "Consume", "Get", "Get"])
        self.assertLessEqual({"DeclareQueue", "Publish", "Consume"}, set(calls[5:]))
        self.assertEqual(self.nodes[0].metadata["traceparent"], "5")


class Cancelling(unittest.IsolatedAsyncioTestCase):
    """gRPC's reads and writes raise how the call has ended when they are cancelled at that moment."""

    async def ends_as_it_is_cancelled(self):
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata()) from None

    async def test_whoever_waits_for_a_call_is_cancelled(self):
        waiting = asyncio.create_task(of_call(self.ends_as_it_is_cancelled()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await waiting

    async def test_whoever_runs_a_stream_is_cancelled(self):
        call = unittest.mock.Mock(done_writing=unittest.mock.AsyncMock())
        waiting = asyncio.create_task(converse(call, self.ends_as_it_is_cancelled(), self.ends_as_it_is_cancelled()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await waiting
        call.cancel.assert_called()

    async def test_a_sender_that_is_over_is_not_asked_for_more(self):
        call = unittest.mock.Mock()
        call.write = unittest.mock.AsyncMock()
        call.done.return_value = True
        self.assertFalse(await send(call, None))


class Settling(unittest.IsolatedAsyncioTestCase):
    """What is settled is told in as few words as can be."""

    ACK, REQUEUE = consuming_pb2.SETTLEMENT_ACK, consuming_pb2.SETTLEMENT_REQUEUE

    def take(self, stream):
        return [(s.delivery_tag, s.multiple, s.settlement) for request in stream.take() for s in request.settles.settles]

    async def test_acks_from_the_front_are_one(self):
        stream = ConsumeStream(asyncio.get_running_loop())
        for tag in range(1, 11):
            stream.got(tag)
        for tag in (3, 1, 2, 5):
            stream.settle(tag, self.ACK)
        self.assertEqual(self.take(stream), [(3, True, self.ACK), (5, False, self.ACK)])
        stream.settle(6, self.REQUEUE)
        self.assertEqual(self.take(stream), [(6, False, self.REQUEUE)])
        for tag in (4, 7):
            stream.settle(tag, self.ACK)
        self.assertEqual(self.take(stream), [(7, True, self.ACK)])
        self.assertEqual(self.take(stream), [])
        for tag in (5, 6, 7):
            with self.assertRaises(aio.SettledError):
                stream.settle(tag, self.ACK)
        stream.end()
        with self.assertRaises(aio.LostError):
            stream.settle(8, self.ACK)

    async def test_what_is_settled_is_forgotten_also_behind_what_is_not(self):
        stream = ConsumeStream(asyncio.get_running_loop())
        stream.got(1)
        for tag in range(2, 1002):
            stream.got(tag)
            stream.settle(tag, self.ACK)
            self.assertEqual(self.take(stream), [(tag, False, self.ACK)])
        kept = {name: len(value) for name, value in vars(stream).items() if hasattr(value, "__len__")}
        self.assertLess(max(kept.values()), 10, kept)
        with self.assertRaises(aio.SettledError):
            stream.settle(2, self.ACK)
        stream.settle(1, self.ACK)
        self.assertEqual(self.take(stream), [(1, True, self.ACK)])

    async def test_leases_are_extended_before_anything_is_settled(self):
        stream = ConsumeStream(asyncio.get_running_loop())
        for tag in (1, 2):
            stream.got(tag)
        stream.extend(1)
        stream.extend(1)
        stream.settle(1, self.REQUEUE, 1500)
        with self.assertRaises(aio.SettledError):
            stream.extend(1)
        stream.settle(2, self.ACK)
        leases, settles = stream.take()
        self.assertEqual(list(leases.extend_leases.delivery_tags), [1])
        self.assertEqual([(s.delivery_tag, s.delay_millis) for s in settles.settles.settles], [(1, 1500), (2, 0)])
        self.assertEqual(stream.take(), [])

    async def test_delays_are_bounded(self):
        delivery = aio.Delivery(b"x", tag=1, settler=unittest.mock.Mock())
        for delay in (-1, 86401):
            with self.assertRaises(ValueError):
                await delivery.requeue(delay)
        delivery.settler.settle.return_value = None
        await delivery.fail(0.0001)
        delivery.settler.settle.assert_called_with(1, consuming_pb2.SETTLEMENT_REQUEUE_FAILED, 1)


if __name__ == "__main__":
    unittest.main()
