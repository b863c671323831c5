"""A node of the broker as far as the tests of the SDK need one: it keeps messages by producer and number, and does with each
stream what a test says."""

import asyncio

import grpc

from warren._proto import admin_pb2, consuming_pb2, publishing_pb2, status_pb2, topology_pb2

DETAILS = "grpc-status-details-bin"
LIMIT = 5 << 20  # of requests, in bytes


def details(code, reason, text):
    """The trailing metadata of a refusal."""
    info = status_pb2.ErrorInfo(reason=reason, domain="warrenmq")
    detail = status_pb2.Detail(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString())
    status = status_pb2.Status(code=code.value[0], message=text, details=[detail])
    return ((DETAILS, status.SerializeToString()),)


class Cluster:
    """What all nodes know."""

    def __init__(self):
        self.stored = {}  # by producer and number
        self.declared = []  # names of what was declared, in order
        self.queue = []  # bodies that were not settled as done
        self.settles = []  # what consumers sent

    async def start(self, count):
        nodes = [Node(self) for _ in range(count)]
        for node in nodes:
            await node.start()
        return nodes


class Node:
    """A server whose behaviour tests change by its attributes."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.confirm_until = None  # confirms that many messages of each stream at most; None: all
        self.outcome = {}  # by body: Confirm fields instead of confirmed
        self.refuse = None  # (code, reason, text) for every call
        self.refuse_first = []  # the same for the next calls, one each
        self.refuse_later = None  # the same for a consumer that has its deliveries, or a get that has its message, once
        self.publishes = 0  # streams
        self.consumes = 0
        self.batches = []
        self.metadata = None  # of the last call

    async def start(self):
        options = [("grpc.http2.max_ping_strikes", 0), ("grpc.max_receive_message_length", LIMIT)]
        self.server = grpc.aio.server(options=options)
        service = self._handlers()
        self.server.add_generic_rpc_handlers(service)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self.server.start()

    async def stop(self):
        await self.server.stop(None)

    def _handlers(self):
        def unary(f, request):
            return grpc.unary_unary_rpc_method_handler(f, request.FromString, lambda m: m.SerializeToString())

        def stream(f, request):
            return grpc.stream_stream_rpc_method_handler(f, request.FromString, lambda m: m.SerializeToString())

        services = {
            "PublishingService": {"Publish": stream(self._publish, publishing_pb2.PublishRequest)},
            "ConsumingService": {
                "Consume": stream(self._consume, consuming_pb2.ConsumeRequest),
                "Get": stream(self._get, consuming_pb2.GetRequest),
            },
            "TopologyService": {
                "DeclareQueue": unary(self._declare_queue, topology_pb2.DeclareQueueRequest),
                "Bind": unary(self._bind, topology_pb2.BindRequest),
            },
            "AdminService": {
                "GetStatus": unary(self._status, admin_pb2.GetStatusRequest),
                "ListExchanges": unary(self._exchanges, admin_pb2.ListExchangesRequest),
            },
        }
        return [grpc.method_handlers_generic_handler("warren.broker.v1." + name, of) for name, of in services.items()]

    async def _check(self, context):
        self.metadata = dict(context.invocation_metadata())
        refusal = self.refuse_first.pop(0) if self.refuse_first else self.refuse
        if refusal is not None:
            code, reason, text = refusal
            await context.abort(code, text, details(code, reason, text))

    async def _declare_queue(self, request, context):
        await self._check(context)
        self.cluster.declared.append(request.name)
        return topology_pb2.DeclareQueueResponse(name=request.name or "amq.gen-1")

    async def _bind(self, request, context):
        await self._check(context)
        self.cluster.declared.append(f"{request.binding.source}>{request.binding.destination}")
        return topology_pb2.BindResponse()

    async def _status(self, request, context):
        await self._check(context)
        return admin_pb2.GetStatusResponse(node=self.address)

    async def _exchanges(self, request, context):
        await self._check(context)
        page = int(request.page_token or "0")
        response = admin_pb2.ListExchangesResponse(next_page_token=str(page + 1) if page < 2 else "")
        response.exchanges.add(name=f"x{page}", type="topic")
        return response

    async def _publish(self, requests, context):
        await self._check(context)
        self.publishes += 1
        producer = (await anext(requests)).start.producer_id
        confirmed = 0
        async for request in requests:
            batch = request.batch
            self.batches.append(batch)
            for at, message in enumerate(batch.messages):
                number = batch.first_sequence + at
                self.cluster.stored.setdefault((producer, number), message.body)
                if self.confirm_until is not None and confirmed >= self.confirm_until:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the node is shutting down")
                confirmed += 1
                fields = self.outcome.get(message.body, {"outcome": publishing_pb2.OUTCOME_CONFIRMED})
                confirm = publishing_pb2.Confirm(first_sequence=number, last_sequence=number, **fields)
                yield publishing_pb2.PublishResponse(confirms=publishing_pb2.Confirms(confirms=[confirm]))

    async def _consume(self, requests, context):
        await self._check(context)
        self.consumes += 1
        start = (await anext(requests)).start
        name = start.queue or f"amq.gen-{self.consumes}"
        yield consuming_pb2.ConsumeResponse(started=consuming_pb2.ConsumeStarted(queue=name))
        bodies = list(self.cluster.queue)
        for tag, body in enumerate(bodies, 1):
            response = consuming_pb2.ConsumeResponse()
            response.deliveries.deliveries.add(delivery_tag=tag, redelivered=self.consumes > 1).message.body = body
            yield response
        if self.refuse_later is not None:
            (code, reason, text), self.refuse_later = self.refuse_later, None
            await context.abort(code, text, details(code, reason, text))
        async for request in requests:
            for settle in request.settles.settles:
                self.cluster.settles.append((settle.delivery_tag, settle.multiple, settle.settlement))


    async def _get(self, requests, context):
        await self._check(context)
        fetch = (await anext(requests)).fetch
        response = consuming_pb2.GetResponse()
        if self.cluster.queue:
            response.delivery.delivery_tag = 1
            response.delivery.message.body = self.cluster.queue.pop(0) if fetch.auto_settle else self.cluster.queue[0]
        yield response
        if self.refuse_later is not None:
            (code, reason, text), self.refuse_later = self.refuse_later, None
            await context.abort(code, text, details(code, reason, text))
        async for request in requests:
            self.cluster.settles.append((request.settle.delivery_tag, False, request.settle.settlement))


async def eventually(condition):
    """Waits for a condition; the test's own time limit ends it."""
    while not condition():
        await asyncio.sleep(0.005)
