import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The Java client as a load: one JVM that stays, so that both brokers are served by the same, warm client.
 *
 * A line in is a command, "produce topic=t records=1000 ..."; a line out is "ok name=figure ..." or "error text". The
 * broker's CPU is none of its business: whoever sends the command reads that before and after.
 */
public final class Load {
    private static final int POOL = 4096;

    private final Map<String, String> options = new HashMap<>();
    /** When the last wanted record arrived: the consumers' last empty poll is no part of it. */
    private volatile long complete;

    public static void main(String[] ignored) throws Exception {
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            try {
                System.out.println("ok" + new Load().run(line.trim().split(" ")));
            } catch (Exception error) {
                System.out.println("error " + String.valueOf(error).replace('\n', ' '));
            }
            System.out.flush();
        }
    }

    private String run(String[] words) throws Exception {
        for (int at = 1; at < words.length; at++) {
            int equals = words[at].indexOf('=');
            options.put(words[at].substring(0, equals), words[at].substring(equals + 1));
        }
        switch (words[0]) {
            case "produce": return produce();
            case "consume": return consume();
            case "both": return both();
            case "one-by-one": return oneByOne();
            case "end-to-end": return endToEnd();
            default: throw new IllegalArgumentException(words[0]);
        }
    }

    /** `producers` of them, each in a thread, share `records`; with `rate` so many a second together. */
    private String produce() throws Exception {
        long records = number("records", 0);
        int producers = (int) number("producers", 1);
        AtomicLong requests = new AtomicLong();
        AtomicLong errors = new AtomicLong();
        long began = System.nanoTime();
        inParallel(producers, index -> send(records / producers, index, errors, requests));
        double seconds = (System.nanoTime() - began) / 1e9;
        if (errors.get() > 0) {
            throw new IllegalStateException(errors + " records were refused");
        }
        return " records=" + records / producers * producers + " seconds=" + seconds + " requests=" + requests;
    }

    private Void send(long records, int seed, AtomicLong errors, AtomicLong requests) {
        byte[][] values = values((int) number("size", 1000), seed);
        String topic = options.get("topic");
        double rate = number("rate", 0) / (double) number("producers", 1);
        int keys = (int) number("keys", 0);
        Random dice = new Random(seed);
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            producer.partitionsFor(topic);
            long began = System.nanoTime();
            for (long sent = 0; sent < records; sent++) {
                if (rate > 0) {
                    waitUntil(began + (long) (sent / rate * 1e9));
                }
                byte[] key = keys == 0 ? null : ByteBuffer.allocate(4).putInt(dice.nextInt(keys)).array();
                producer.send(new ProducerRecord<>(topic, key, values[(int) (sent % POOL)]), (metadata, error) -> {
                    if (error != null) {
                        errors.incrementAndGet();
                    }
                });
            }
            producer.flush();
            requests.addAndGet(metric(producer, "request-total"));
        }
        return null;
    }

    /** Reads `records` from the beginning; `consumers` of them share the partitions. */
    private String consume() throws Exception {
        long wanted = number("records", 0);
        AtomicLong got = new AtomicLong();
        AtomicLong bytes = new AtomicLong();
        int consumers = (int) number("consumers", 1);
        long began = System.nanoTime();
        inParallel(consumers, index -> read(index, consumers, wanted, got, bytes));
        double seconds = (complete - began) / 1e9;
        return " records=" + got + " bytes=" + bytes + " seconds=" + seconds;
    }

    private Void read(int index, int consumers, long wanted, AtomicLong got, AtomicLong bytes) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            List<TopicPartition> mine = new ArrayList<>();
            for (int partition = index; partition < number("partitions", 1); partition += consumers) {
                mine.add(new TopicPartition(options.get("topic"), partition));
            }
            consumer.assign(mine);
            consumer.seekToBeginning(mine);
            long deadline = System.nanoTime() + 180_000_000_000L;
            while (got.get() < wanted) {
                long size = 0;
                ConsumerRecords<byte[], byte[]> found = consumer.poll(Duration.ofMillis(100));
                for (ConsumerRecord<byte[], byte[]> record : found) {
                    size += record.serializedValueSize();
                }
                bytes.addAndGet(size);
                if (got.addAndGet(found.count()) >= wanted && !found.isEmpty()) {
                    complete = System.nanoTime();
                }
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException(got + " of " + wanted + " records arrived");
                }
            }
        }
        return null;
    }

    /** Producers and consumers at once; over when every record has been sent and has arrived. */
    private String both() throws Exception {
        long wanted = number("records", 0) / number("producers", 1) * number("producers", 1);
        AtomicLong got = new AtomicLong();
        int producers = (int) number("producers", 1);
        int consumers = (int) number("consumers", 1);
        AtomicLong errors = new AtomicLong();
        long began = System.nanoTime();
        inParallel(producers + consumers, index -> index < producers
            ? send(wanted / producers, index, errors, new AtomicLong())
            : read(index - producers, consumers, wanted, got, new AtomicLong()));
        double seconds = (complete - began) / 1e9;
        if (errors.get() > 0 || got.get() != wanted) {
            throw new IllegalStateException(errors + " errors, " + got + " of " + wanted + " records");
        }
        return " records=" + wanted + " seconds=" + seconds;
    }

    /** One record in flight: each waits for its acknowledgement. */
    private String oneByOne() throws Exception {
        int records = (int) number("records", 1);
        byte[][] values = values((int) number("size", 100), 0);
        long[] took = new long[records];
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            for (int sent = -200; sent < records; sent++) {
                long began = System.nanoTime();
                producer.send(new ProducerRecord<>(options.get("topic"), values[(sent + 200) % POOL])).get();
                if (sent >= 0) {
                    took[sent] = System.nanoTime() - began;
                }
            }
        }
        return " records=" + (records + 200) + percentiles(took, records);
    }

    /**
     * From the moment a record was due until the application has it, at `rate` records a second.
     *
     * Counted from when it was due, not from when it was sent: a producer that was held up makes latency, not a gap.
     */
    private String endToEnd() throws Exception {
        double rate = number("rate", 1000);
        int skipped = (int) rate;
        int records = (int) (rate * Double.parseDouble(options.get("seconds"))) + skipped;
        int size = (int) number("size", 100);
        long[] took = new long[records];
        AtomicReference<KafkaConsumer<byte[], byte[]>> reader = new AtomicReference<>(consumer());
        List<TopicPartition> all = new ArrayList<>();
        for (int partition = 0; partition < number("partitions", 1); partition++) {
            all.add(new TopicPartition(options.get("topic"), partition));
        }
        reader.get().assign(all);
        reader.get().seekToEnd(all);
        all.forEach(partition -> reader.get().position(partition));
        ExecutorService threads = Executors.newSingleThreadExecutor();
        Future<Integer> arrived = threads.submit(() -> {
            int count = 0;
            long deadline = System.nanoTime() + (long) ((records / rate + 60) * 1e9);
            while (count < records && System.nanoTime() < deadline) {
                for (ConsumerRecord<byte[], byte[]> record : reader.get().poll(Duration.ofMillis(100))) {
                    took[count++] = System.nanoTime() - ByteBuffer.wrap(record.value()).getLong();
                }
            }
            return count;
        });
        byte[] filling = values(size, 0)[0];
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            producer.partitionsFor(options.get("topic"));
            long began = System.nanoTime();
            for (int sent = 0; sent < records; sent++) {
                long due = began + (long) (sent / rate * 1e9);
                waitUntil(due);
                byte[] value = Arrays.copyOf(filling, size);
                ByteBuffer.wrap(value).putLong(due);
                producer.send(new ProducerRecord<>(options.get("topic"), value));
            }
            producer.flush();
            double seconds = (System.nanoTime() - began) / 1e9;
            int count = arrived.get();
            if (count != records) {
                throw new IllegalStateException(count + " of " + records + " records arrived");
            }
            // The first second is the consumer finding its pace and is left out: records come roughly in order.
            long[] kept = Arrays.copyOfRange(took, skipped, records);
            return " records=" + records + " seconds=" + seconds + " rate=" + records / seconds
                + percentiles(kept, kept.length);
        } finally {
            threads.shutdown();
            reader.get().close();
        }
    }

    private static void waitUntil(long due) {
        for (long left = due - System.nanoTime(); left > 0; left = due - System.nanoTime()) {
            LockSupport.parkNanos(left);
        }
    }

    private static String percentiles(long[] nanos, int count) {
        long[] sorted = Arrays.copyOf(nanos, count);
        Arrays.sort(sorted);
        StringBuilder text = new StringBuilder();
        double[] shares = {0.5, 0.99, 0.999};
        String[] names = {"p50_ms", "p99_ms", "p999_ms"};
        for (int at = 0; at < shares.length; at++) {
            int index = Math.min(count - 1, (int) Math.ceil(shares[at] * count) - 1);
            text.append(' ').append(names[at]).append('=').append(sorted[Math.max(0, index)] / 1e6);
        }
        return text.append(" max_ms=").append(sorted[count - 1] / 1e6).toString();
    }

    private interface Work {
        Void run(int index) throws Exception;
    }

    private static void inParallel(int count, Work work) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(count);
        try {
            List<Callable<Void>> tasks = new ArrayList<>();
            for (int index = 0; index < count; index++) {
                int mine = index;
                tasks.add(() -> work.run(mine));
            }
            for (Future<Void> done : threads.invokeAll(tasks)) {
                done.get();
            }
        } finally {
            threads.shutdownNow();
        }
    }

    /**
     * Records that look like events in JSON: field names that repeat, words of a small vocabulary, digits that do not.
     *
     * Letters at random would hardly compress, the same record again and again far too well.
     */
    private static byte[][] values(int size, int seed) {
        String[] words = {"created", "paid", "shipped", "returned", "lost", "Stockholm", "Prague", "Lisbon", "Oslo", "Graz"};
        Random dice = new Random(seed);
        byte[][] values = new byte[POOL][];
        for (int at = 0; at < POOL; at++) {
            StringBuilder text = new StringBuilder("........{");
            while (text.length() < size) {
                text.append("\"id\":").append(dice.nextInt(1_000_000_000)).append(",\"state\":\"").append(words[dice.nextInt(5)])
                    .append("\",\"city\":\"").append(words[5 + dice.nextInt(5)]).append("\",\"amount\":")
                    .append(dice.nextInt(100_000)).append(',');
            }
            values[at] = text.substring(0, size).getBytes(java.nio.charset.StandardCharsets.US_ASCII);
        }
        return values;
    }

    private KafkaProducer<byte[], byte[]> producer() {
        Properties properties = common("producer.");
        return new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private KafkaConsumer<byte[], byte[]> consumer() {
        Properties properties = common("consumer.");
        return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private Properties common(String prefix) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", options.get("bootstrap"));
        options.forEach((name, value) -> {
            if (name.startsWith(prefix)) {
                properties.put(name.substring(prefix.length()), value);
            }
        });
        return properties;
    }

    private static long metric(KafkaProducer<?, ?> producer, String name) {
        return producer.metrics().entrySet().stream()
            .filter(entry -> entry.getKey().name().equals(name) && entry.getKey().group().equals("producer-metrics"))
            .mapToLong(entry -> ((Number) entry.getValue().metricValue()).longValue()).sum();
    }

    private long number(String name, long otherwise) {
        return options.containsKey(name) ? Long.parseLong(options.get(name)) : otherwise;
    }
}
