// Puts the .proto files of the API, which the package reads when it is loaded, beside the compiled code.
import { copyFileSync, mkdirSync, readdirSync } from "node:fs";

const from = new URL("../../proto/broker/v1/", import.meta.url);
const to = new URL("dist/proto/broker/v1/", import.meta.url);
mkdirSync(to, { recursive: true });
for (const name of readdirSync(from).filter((name) => name.endsWith(".proto"))) {
  copyFileSync(new URL(name, from), new URL(name, to));
}
