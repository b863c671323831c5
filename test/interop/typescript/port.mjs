// Lets programs that name Warren's default port, such as those of the SDK's README, reach the node under test: loaded before
// them, it has connections to port 7672 go to GRPC_PORT. Port 7671, where a program expects nobody, stays refused whoever is there.
import net from "node:net";

const ports = new Map([
  [7671, 1],
  [7672, Number(process.env.GRPC_PORT)],
]);
const connect = net.connect;
net.connect = (options, ...rest) => connect({ ...options, port: ports.get(options.port) ?? options.port }, ...rest);
