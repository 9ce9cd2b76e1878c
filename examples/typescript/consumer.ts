// Prints the records of the feed and stores its position in a file.
//
//     npx tsx consumer.ts 127.0.0.1:50051 position.json
//
// Stop it and start it again: it resumes after the last message that it handled.
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import type { ProtoGrpcType } from "./gen/event_service.ts";
import type { SubscribeResponse__Output } from "./gen/desk/v1/SubscribeResponse.ts";

const PROTO = "proto"; // a copy of the directory of this name
const SILENCE_MS = 30_000; // the service promises a message every 5 s, under load every 20 s
const HOPELESS = [
  grpc.status.INVALID_ARGUMENT,
  grpc.status.FAILED_PRECONDITION, // the service has another journal: start over
  grpc.status.OUT_OF_RANGE, // the records after this position are no longer kept: start over
  grpc.status.UNAUTHENTICATED,
  grpc.status.PERMISSION_DENIED,
];

const [target, file] = process.argv.slice(2);
const definition = loadSync("desk/v1/event_service.proto", {
  includeDirs: [PROTO],
  longs: String, // revisions are 64 bits wide, more than a number holds
  enums: String,
  defaults: true,
  oneofs: true,
});
const { desk } = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
const client = new desk.v1.EventService(target, grpc.credentials.createInsecure());

let position: { journalId: string; revision: string } = existsSync(file)
  ? JSON.parse(readFileSync(file, "utf8"))
  : { journalId: "", revision: "0" };
let last = { revision: 0n, ordinal: 0 }; // of the records handled by this process
let attempt = 0;

function handle(response: SubscribeResponse__Output): void {
  for (const record of response.records?.records ?? []) {
    const revision = BigInt(record.revision);
    const { ordinal } = record;
    // A revision that came in parts is repeated by a resumed stream.
    if (revision < last.revision || (revision === last.revision && ordinal <= last.ordinal)) continue;
    console.log(record.revision, record.event?.sessionId, record.event?.typeName, record.sessionState);
    last = { revision, ordinal };
  }
  // After the effects, and of every message: progress without records counts, too.
  position = { journalId: response.header!.journalId, revision: response.header!.revision };
  writeFileSync(`${file}.new`, JSON.stringify(position));
  renameSync(`${file}.new`, file);
}

function follow(): Promise<grpc.StatusObject> {
  return new Promise((resolve) => {
    const call = client.Subscribe({ afterRevision: position.revision, journalId: position.journalId });
    const silence = setTimeout(() => call.cancel(), SILENCE_MS);
    call.on("data", (response: SubscribeResponse__Output) => {
      attempt = 0;
      silence.refresh();
      handle(response);
    });
    call.on("error", () => {}); // also reported as the status
    call.on("status", (status: grpc.StatusObject) => {
      clearTimeout(silence);
      resolve(status);
    });
  });
}

for (;;) {
  const status = await follow();
  if (HOPELESS.includes(status.code)) throw new Error(`${grpc.status[status.code]}: ${status.details}`);
  const delay = Math.min(10_000, 200 * 2 ** attempt++) * (0.5 + Math.random() / 2);
  console.error(`connection lost (${status.details}), trying again in ${Math.round(delay)} ms`);
  await sleep(delay);
}
