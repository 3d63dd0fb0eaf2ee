// Sends records and reads them back with KafkaJS, logged in as the environment says; the last line says how it went.
const fs = require("node:fs");
const { Kafka, logLevel } = require("kafkajs");

const count = 100;
const { LOGIN_BROKER, LOGIN_CA, LOGIN_MECHANISM, LOGIN_USER, LOGIN_PASSWORD, LOGIN_TOPIC } = process.env;

function fail(error) {
  console.log("FAILED", String(error));
  process.exit(1);
}

async function main() {
  const settings = { clientId: "login", brokers: [LOGIN_BROKER], logLevel: logLevel.NOTHING, retry: { retries: 3 } };
  if (LOGIN_CA) settings.ssl = { ca: [fs.readFileSync(LOGIN_CA, "utf-8")] };
  if (LOGIN_MECHANISM === "OAUTHBEARER") {
    settings.sasl = { mechanism: "oauthbearer", oauthBearerProvider: async () => ({ value: LOGIN_PASSWORD }) };
  } else if (LOGIN_MECHANISM) {
    settings.sasl = { mechanism: LOGIN_MECHANISM.toLowerCase(), username: LOGIN_USER, password: LOGIN_PASSWORD };
  }
  const kafka = new Kafka(settings);
  const producer = kafka.producer();
  await producer.connect();
  for (let number = 0; number < count; number++) {
    await producer.send({ topic: LOGIN_TOPIC, messages: [{ value: String(number) }] });
  }
  await producer.disconnect();
  const consumer = kafka.consumer({ groupId: `${LOGIN_TOPIC}-group` });
  await consumer.connect();
  await consumer.subscribe({ topics: [LOGIN_TOPIC], fromBeginning: true });
  let read = 0;
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`record ${read} does not come`)), 40000).unref();
    consumer.run({
      eachMessage: async ({ message }) => {
        if (message.value.toString() !== String(read)) reject(new Error(`record ${read} is ${message.value}`));
        read += 1;
        if (read === count) resolve();
      },
    });
  });
  await consumer.disconnect();
  console.log("SERVED", read);
}

main().catch(fail);
