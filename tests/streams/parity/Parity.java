// Runs topologies in Kafka Streams' TopologyTestDriver and writes down what comes out: the oracle of tests/streams/test_parity.py.
//
//     java -cp "lib/*" Parity.java topologies.json results.json
//
// A topology is a list of steps (see topologies.py, which has the same functions under the same names). A result has Java's
// description of the topology and, for each topic, the records in order: key, value, timestamp, headers, bytes in hex.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.SessionStore;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.VersionedKeyValueStore;
import org.apache.kafka.streams.state.VersionedRecord;
import org.apache.kafka.streams.state.WindowStore;
import org.apache.kafka.streams.test.TestRecord;

@SuppressWarnings({"unchecked", "rawtypes"})
public class Parity {
    static final ObjectMapper JSON = new ObjectMapper();
    static final HexFormat HEX = HexFormat.of();
    static final Initializer<Object> EMPTY = () -> "";

    public static void main(final String[] args) throws Exception {
        final JsonNode all = JSON.readTree(new File(args[0]));
        final ObjectNode results = JSON.createObjectNode();
        for (final JsonNode one : all) {
            final String name = one.get("name").asText();
            try {
                results.set(name, run(one));
            } catch (final Exception error) {
                throw new IllegalStateException("topology " + name, error);
            }
        }
        JSON.writeValue(new File(args[1]), results);
        System.exit(0);
    }

    static ObjectNode run(final JsonNode one) throws Exception {
        final StreamsBuilder builder = new StreamsBuilder();
        final Map<String, Object> made = new HashMap<>();
        for (final JsonNode step : one.get("steps")) {
            step(builder, made, step);
        }
        final File dir = Files.createTempDirectory("parity").toFile();
        final Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, "app");
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "nowhere:9092");
        config.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        config.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, one.has("cache") ? 10 << 20 : 0);
        config.put(StreamsConfig.STATE_DIR_CONFIG, dir.getPath());
        config.put("__emit.interval.ms.kstreams.outer.join.spurious.results.fix__", 0L);
        config.put("__emit.interval.ms.kstreams.windowed.aggregation__", 0L);
        final Topology topology = builder.build(config);
        final ObjectNode result = JSON.createObjectNode();
        result.put("description", topology.describe().toString());
        try (TopologyTestDriver driver = new TopologyTestDriver(topology, config, Instant.ofEpochMilli(0))) {
            final Map<String, TestInputTopic<byte[], byte[]>> topics = new HashMap<>();
            for (final JsonNode input : one.get("inputs")) {
                final String topic = input.get(0).asText();
                if (topic.equals("$advance")) {
                    driver.advanceWallClockTime(Duration.ofMillis(input.get(1).asLong()));
                    continue;
                }
                final RecordHeaders headers = new RecordHeaders();
                for (final JsonNode header : input.get(4)) {
                    headers.add(header.get(0).asText(), header.get(1).asText().getBytes(StandardCharsets.UTF_8));
                }
                topics.computeIfAbsent(topic,
                        found -> driver.createInputTopic(found, new ByteArraySerializer(), new ByteArraySerializer()))
                    .pipeInput(new TestRecord<>(bytes(input.get(1)), bytes(input.get(2)), headers, input.get(3).asLong()));
            }
            final ObjectNode outputs = JSON.createObjectNode();
            for (final String topic : new TreeSet<>(driver.producedTopicNames())) {
                final ArrayNode records = JSON.createArrayNode();
                ProducerRecord<byte[], byte[]> record;
                while ((record = read(driver, topic)) != null) {
                    final ArrayNode row = JSON.createArrayNode();
                    row.add(record.key() == null ? null : HEX.formatHex(record.key()));
                    row.add(record.value() == null ? null : HEX.formatHex(record.value()));
                    row.add(record.timestamp());
                    final ArrayNode headers = JSON.createArrayNode();
                    for (final Header header : record.headers()) {
                        final ArrayNode pair = JSON.createArrayNode();
                        pair.add(header.key());
                        pair.add(header.value() == null ? null : HEX.formatHex(header.value()));
                        headers.add(pair);
                    }
                    row.add(headers);
                    records.add(row);
                }
                outputs.set(topic, records);
            }
            result.set("outputs", outputs);
        }
        return result;
    }

    static ProducerRecord<byte[], byte[]> read(final TopologyTestDriver driver, final String topic) throws Exception {
        final java.lang.reflect.Method method = TopologyTestDriver.class.getDeclaredMethod("readRecord", String.class);
        method.setAccessible(true);
        return (ProducerRecord<byte[], byte[]>) method.invoke(driver, topic);
    }

    static byte[] bytes(final JsonNode text) {
        return text.isNull() ? null : text.asText().getBytes(StandardCharsets.UTF_8);
    }

    // Functions; topologies.py has the same.

    static boolean test(final String name, final Object key, final Object value) {
        switch (name) {
            case "long": return value != null && value.toString().length() > 3;
            case "key_a": return "a".equals(key);
            case "even": return value != null && ((Long) value) % 2 == 0;
            case "has_value": return value != null;
            case "no_x": return value == null || !value.toString().contains("x");
            default: throw new IllegalArgumentException(name);
        }
    }

    static Object map(final String name, final Object key, final Object value) {
        switch (name) {
            case "upper": return value == null ? null : value.toString().toUpperCase();
            case "with_key": return key + "=" + value;
            case "text": return value == null ? null : value.toString();
            case "null_x": return value == null || value.toString().contains("x") ? null : value;
            case "first": return value == null || value.toString().isEmpty() ? null : value.toString().substring(0, 1);
            case "key": return key;
            case "last": return value == null || value.toString().isEmpty()
                ? null : value.toString().substring(value.toString().length() - 1);
            case "constant": return "all";
            case "drop": return "x".equals(value) ? "drop" : value;
            default: throw new IllegalArgumentException(name);
        }
    }

    static KeyValue<Object, Object> pair(final String name, final Object key, final Object value) {
        switch (name) {
            case "swap": return KeyValue.pair(value, key);
            case "first": return KeyValue.pair(map("first", key, value), value);
            case "constant": return KeyValue.pair("all", value);
            case "window_key": return KeyValue.pair(((Windowed) key).key() + "@" + ((Windowed) key).window().start(), String.valueOf(value));
            default: throw new IllegalArgumentException(name);
        }
    }

    static List<KeyValue<Object, Object>> pairs(final Object key, final Object value) {
        final List<KeyValue<Object, Object>> found = new ArrayList<>();
        for (final Object word : words(value)) {
            found.add(KeyValue.pair(word, key));
        }
        return found;
    }

    static List<Object> words(final Object value) {
        return value == null ? new ArrayList<>() : new ArrayList<>(Arrays.asList(value.toString().split(" ")));
    }

    static Object join(final Object left, final Object right) {
        return left + "+" + right;
    }

    static Object add(final Object key, final Object value, final Object aggregate) {
        final String made = aggregate + "," + value;
        return made.length() > 40 ? made.substring(made.length() - 40) : made;
    }

    static Object subtract(final Object aggregate, final Object value) {
        return aggregate + "-" + value;
    }

    // Steps.

    static String text(final JsonNode step, final String name) {
        return step.has(name) ? step.get(name).asText() : null;
    }

    static Named named(final JsonNode step) {
        return step.has("as") ? Named.as(text(step, "as")) : null;
    }

    static Materialized<Object, Object, KeyValueStore<Bytes, byte[]>> store(final JsonNode step) {
        return step.has("history") ? versioned(step) : Materialized.as(text(step, "store"));
    }

    static Materialized versioned(final JsonNode step) {
        return Materialized.as(Stores.persistentVersionedKeyValueStore(text(step, "store"), duration(step, "history")));
    }

    static Consumed<Object, Object> read() {
        return (Consumed) Consumed.with(Serdes.String(), Serdes.String());
    }

    static Grouped<Object, Object> grouped(final JsonNode step) {
        return (Grouped) Grouped.with(text(step, "as"), Serdes.String(), Serdes.String());
    }

    static long ms(final JsonNode step, final String name) {
        return step.has(name) ? step.get(name).asLong() : 0;
    }

    static Duration duration(final JsonNode step, final String name) {
        return Duration.ofMillis(ms(step, name));
    }

    static void step(final StreamsBuilder builder, final Map<String, Object> made, final JsonNode step) {
        final String op = text(step, "op");
        final String id = text(step, "id");
        final String fn = text(step, "fn");
        final Object of = step.has("of") && step.get("of").isTextual() ? made.get(text(step, "of")) : null;
        final Object other = step.has("other") ? made.get(text(step, "other")) : null;
        final KStream<Object, Object> stream = of instanceof KStream ? (KStream) of : null;
        final KTable<Object, Object> table = of instanceof KTable ? (KTable) of : null;
        final Named as = named(step);
        Object result = null;
        switch (op) {
            case "stream":
                result = builder.stream(text(step, "topic"), as == null ? read() : read().withName(text(step, "as")));
                break;
            case "table":
                result = step.has("history") ? builder.table(text(step, "topic"), read(), versioned(step))
                    : step.has("store") ? builder.table(text(step, "topic"), read(), (Materialized) store(step))
                    : builder.table(text(step, "topic"), read());
                break;
            case "global_table":
                result = step.has("store") ? builder.globalTable(text(step, "topic"), read(), (Materialized) store(step))
                    : builder.globalTable(text(step, "topic"), read());
                break;
            case "filter":
                if (stream != null) {
                    result = as == null ? stream.filter((key, value) -> test(fn, key, value))
                        : stream.filter((key, value) -> test(fn, key, value), as);
                } else {
                    result = step.has("store") ? table.filter((key, value) -> test(fn, key, value), (Materialized) store(step))
                        : table.filter((key, value) -> test(fn, key, value));
                }
                break;
            case "filter_not":
                result = stream != null ? stream.filterNot((key, value) -> test(fn, key, value))
                    : table.filterNot((key, value) -> test(fn, key, value));
                break;
            case "map": result = stream.map((key, value) -> pair(fn, key, value)); break;
            case "map_values":
                if (stream != null) {
                    result = as == null ? stream.mapValues((key, value) -> map(fn, key, value))
                        : stream.mapValues((key, value) -> map(fn, key, value), as);
                } else {
                    result = step.has("store")
                        ? table.mapValues((ValueMapperWithKey) (key, value) -> map(fn, key, value), (Materialized) store(step))
                        : table.mapValues((ValueMapperWithKey) (key, value) -> map(fn, key, value));
                }
                break;
            case "flat_map": result = stream.flatMap((key, value) -> pairs(key, value)); break;
            case "flat_map_values": result = stream.flatMapValues((ValueMapper) value -> words(value)); break;
            case "select_key": result = stream.selectKey((key, value) -> map(fn, key, value)); break;
            case "peek": result = stream.peek((key, value) -> { }); break;
            case "foreach": stream.foreach((key, value) -> { }); break;
            case "merge": result = stream.merge((KStream) other); break;
            case "split": {
                BranchedKStream<Object, Object> branches = as == null ? stream.split() : stream.split(as);
                final List<String> names = new ArrayList<>();
                for (final JsonNode branch : step.get("branches")) {
                    final String predicate = branch.get(0).asText();
                    branches = branch.size() > 1
                        ? branches.branch((key, value) -> test(predicate, key, value), Branched.as(branch.get(1).asText()))
                        : branches.branch((key, value) -> test(predicate, key, value));
                }
                final Map<String, KStream<Object, Object>> all =
                    step.has("default") ? branches.defaultBranch() : branches.noDefaultBranch();
                int index = 0;
                for (final String name : new TreeSet<>(all.keySet())) {
                    made.put(id + index++, all.get(name));
                }
                return;
            }
            case "repartition":
                result = as == null ? stream.repartition()
                    : stream.repartition(Repartitioned.<Object, Object>as(text(step, "as")).withNumberOfPartitions(1));
                break;
            case "group_by_key":
                result = stream.groupByKey(grouped(step));
                break;
            case "group_by":
                if (stream != null) {
                    result = stream.groupBy((key, value) -> map(fn, key, value), grouped(step));
                } else {
                    result = table.groupBy((key, value) -> pair(fn, key, value), grouped(step));
                }
                break;
            case "count": case "reduce": case "aggregate": result = aggregate(op, step, of); break;
            case "cogroup": result = cogroup(made, step); break;
            case "to_stream": result = table.toStream(); break;
            case "to_table":
                result = step.has("history") ? stream.toTable(versioned(step))
                    : step.has("store") ? stream.toTable((Materialized) store(step)) : stream.toTable();
                break;
            case "suppress": {
                final Suppressed suppressed = step.has("limit")
                    ? Suppressed.untilTimeLimit(duration(step, "limit"), step.has("records")
                        ? Suppressed.BufferConfig.maxRecords(ms(step, "records")) : Suppressed.BufferConfig.unbounded())
                    : Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded());
                result = table.suppress(suppressed);
                break;
            }
            case "join": result = joined(step, of, other); break;
            case "versions":
                builder.addStateStore(Stores.versionedKeyValueStoreBuilder(
                    Stores.persistentVersionedKeyValueStore(text(step, "store"), duration(step, "history")),
                    Serdes.String(), Serdes.String()));
                result = stream.process(() -> new Versions(text(step, "store")), text(step, "store"));
                break;
            case "process": result = stream.process(() -> new Ticker(step)); break;
            case "process_values":
                result = stream.processValues(() -> new org.apache.kafka.streams.processor.api.FixedKeyProcessor<Object, Object, Object>() {
                    private org.apache.kafka.streams.processor.api.FixedKeyProcessorContext<Object, Object> context;
                    @Override
                    public void init(final org.apache.kafka.streams.processor.api.FixedKeyProcessorContext<Object, Object> given) {
                        context = given;
                    }
                    @Override
                    public void process(final org.apache.kafka.streams.processor.api.FixedKeyRecord<Object, Object> record) {
                        context.forward(record.withValue(map(fn, record.key(), record.value())));
                        context.forward(record.withValue("again").withTimestamp(record.timestamp() + 1));
                    }
                });
                break;
            case "to": stream.to(text(step, "topic")); break;
            default: throw new IllegalArgumentException(op);
        }
        if (id != null) {
            made.put(id, result);
        }
    }

    static class Versions implements Processor<Object, Object, Object, Object> {
        private final String name;
        private ProcessorContext<Object, Object> context;
        private VersionedKeyValueStore<Object, Object> store;

        Versions(final String name) {
            this.name = name;
        }

        @Override
        public void init(final ProcessorContext<Object, Object> given) {
            context = given;
            store = context.getStateStore(name);
        }

        @Override
        public void process(final Record<Object, Object> record) {
            if (record.key() == null) {
                return;
            }
            final long when = record.timestamp();
            final long code = store.put(record.key(), record.value(), when);
            final StringBuilder told = new StringBuilder(code == Long.MIN_VALUE ? "late" : String.valueOf(code));
            told.append(' ').append(told(store.get(record.key())));
            for (final long back : new long[] {-4_000, -1, 0, 1, 3_000, 9_000, 21_000, 48_000, 70_000, 130_000}) {
                told.append(' ').append(when < back ? "-" : told(store.get(record.key(), when - back)));
            }
            if ("drop".equals(record.value())) {
                told.append(' ').append(told(store.delete(record.key(), when + 500)));
            }
            context.forward(record.withValue(told.toString()));
        }

        private static String told(final VersionedRecord<Object> found) {
            return found == null ? "none" : found.value() + "@" + found.timestamp();
        }
    }

    static class Ticker implements Processor<Object, Object, Object, Object> {
        private final JsonNode step;
        private ProcessorContext<Object, Object> context;
        private long seen = 0;

        Ticker(final JsonNode step) {
            this.step = step;
        }

        @Override
        public void init(final ProcessorContext<Object, Object> given) {
            context = given;
            context.schedule(duration(step, "every"),
                text(step, "by").equals("stream_time") ? PunctuationType.STREAM_TIME : PunctuationType.WALL_CLOCK_TIME,
                now -> context.forward(new Record<>("tick", String.valueOf(seen), now)));
        }

        @Override
        public void process(final Record<Object, Object> record) {
            seen++;
            context.forward(record);
            context.forward(record.withKey("copy").withTimestamp(record.timestamp() + 1));
        }
    }

    static Object windows(final JsonNode windows) {
        final Duration grace = duration(windows, "grace");
        switch (windows.get("type").asText()) {
            case "tumbling": return TimeWindows.ofSizeAndGrace(duration(windows, "size"), grace);
            case "hopping": return TimeWindows.ofSizeAndGrace(duration(windows, "size"), grace)
                .advanceBy(duration(windows, "advance"));
            case "sliding": return SlidingWindows.ofTimeDifferenceAndGrace(duration(windows, "size"), grace);
            default: return SessionWindows.ofInactivityGapAndGrace(duration(windows, "size"), grace);
        }
    }

    static Object aggregate(final String op, final JsonNode step, final Object of) {
        final boolean stored = step.has("store");
        if (of instanceof KGroupedTable) {
            final KGroupedTable<Object, Object> grouped = (KGroupedTable) of;
            switch (op) {
                case "count": return stored ? grouped.count((Materialized) store(step)) : grouped.count();
                case "reduce": return stored
                    ? grouped.reduce((one, two) -> add(null, two, one), (one, two) -> subtract(one, two),
                        (Materialized) store(step))
                    : grouped.reduce((one, two) -> add(null, two, one), (one, two) -> subtract(one, two));
                default: return stored
                    ? grouped.aggregate(EMPTY, (key, value, aggregate) -> add(key, value, aggregate),
                        (key, value, aggregate) -> subtract(aggregate, value), (Materialized) store(step))
                    : grouped.aggregate(EMPTY, (key, value, aggregate) -> add(key, value, aggregate),
                    (key, value, aggregate) -> subtract(aggregate, value));
            }
        }
        final KGroupedStream<Object, Object> grouped = (KGroupedStream) of;
        if (!step.has("windows")) {
            switch (op) {
                case "count": return stored ? grouped.count((Materialized) store(step)) : grouped.count();
                case "reduce": return stored ? grouped.reduce((one, two) -> add(null, two, one), (Materialized) store(step))
                    : grouped.reduce((one, two) -> add(null, two, one));
                default: return stored
                    ? grouped.aggregate(EMPTY, (key, value, aggregate) -> add(key, value, aggregate), (Materialized) store(step))
                    : grouped.aggregate(EMPTY, (key, value, aggregate) -> add(key, value, aggregate));
            }
        }
        final Object windows = windows(step.get("windows"));
        final EmitStrategy emit = step.has("emit") ? EmitStrategy.onWindowClose() : EmitStrategy.onWindowUpdate();
        if (windows instanceof SessionWindows) {
            final SessionWindowedKStream<Object, Object> sessions =
                grouped.windowedBy((SessionWindows) windows).emitStrategy(emit);
            switch (op) {
                case "count": return stored ? sessions.count(Materialized.as(text(step, "store"))) : sessions.count();
                case "reduce": return sessions.reduce((one, two) -> add(null, two, one));
                default: return sessions.aggregate(EMPTY, (key, value, aggregate) -> add(key, value, aggregate),
                    (key, one, two) -> one + "&" + two);
            }
        }
        final TimeWindowedKStream<Object, Object> windowed = (windows instanceof SlidingWindows
            ? grouped.windowedBy((SlidingWindows) windows) : grouped.windowedBy((TimeWindows) windows)).emitStrategy(emit);
        switch (op) {
            case "count": return stored ? windowed.count(Materialized.as(text(step, "store"))) : windowed.count();
            case "reduce": return windowed.reduce((one, two) -> add(null, two, one));
            default: return windowed.aggregate(EMPTY, (key, value, aggregate) -> add(key, value, aggregate));
        }
    }

    static Object cogroup(final Map<String, Object> made, final JsonNode step) {
        CogroupedKStream<Object, Object> cogrouped = null;
        int index = 0;
        for (final JsonNode name : step.get("of")) {
            final KGroupedStream<Object, Object> grouped = (KGroupedStream) made.get(name.asText());
            final String mark = index++ + ":";
            final Aggregator<Object, Object, Object> aggregator = (key, value, aggregate) -> add(key, mark + value, aggregate);
            cogrouped = cogrouped == null ? grouped.cogroup(aggregator) : cogrouped.cogroup(grouped, aggregator);
        }
        if (!step.has("windows")) {
            return step.has("store") ? cogrouped.aggregate(EMPTY, (Materialized) store(step))
                : cogrouped.aggregate(EMPTY);
        }
        final Object windows = windows(step.get("windows"));
        if (windows instanceof SessionWindows) {
            return cogrouped.windowedBy((SessionWindows) windows).aggregate(EMPTY, (key, one, two) -> one + "&" + two,
                (Materialized) Materialized.with(Serdes.String(), Serdes.String()));
        }
        final Materialized how = Materialized.with(Serdes.String(), Serdes.String());
        return windows instanceof SlidingWindows ? cogrouped.windowedBy((SlidingWindows) windows).aggregate(EMPTY, how)
            : cogrouped.windowedBy((TimeWindows) windows).aggregate(EMPTY, how);
    }

    static Object joined(final JsonNode step, final Object of, final Object other) {
        final String kind = text(step, "kind");
        final String fn = text(step, "fn");
        final ValueJoiner<Object, Object, Object> joiner = (left, right) -> join(left, right);
        if (of instanceof KTable) {
            final KTable<Object, Object> left = (KTable) of;
            final KTable<Object, Object> right = (KTable) other;
            if (step.has("foreign")) {
                final java.util.function.Function<Object, Object> key = value -> map(text(step, "foreign"), null, value);
                if (step.has("store")) {
                    return kind.equals("left") ? left.leftJoin(right, key, joiner, (Materialized) store(step))
                        : left.join(right, key, joiner, (Materialized) store(step));
                }
                return kind.equals("left") ? left.leftJoin(right, key, joiner) : left.join(right, key, joiner);
            }
            if (step.has("store")) {
                return kind.equals("left") ? left.leftJoin(right, joiner, (Materialized) store(step))
                    : kind.equals("outer") ? left.outerJoin(right, joiner, (Materialized) store(step))
                    : left.join(right, joiner, (Materialized) store(step));
            }
            return kind.equals("left") ? left.leftJoin(right, joiner)
                : kind.equals("outer") ? left.outerJoin(right, joiner) : left.join(right, joiner);
        }
        final KStream<Object, Object> left = (KStream) of;
        if (other instanceof GlobalKTable) {
            final GlobalKTable<Object, Object> right = (GlobalKTable) other;
            final KeyValueMapper<Object, Object, Object> key = (given, value) -> map(fn, given, value);
            return kind.equals("left") ? left.leftJoin(right, key, joiner) : left.join(right, key, joiner);
        }
        if (other instanceof KTable) {
            final KTable<Object, Object> right = (KTable) other;
            if (step.has("grace")) {
                final Joined<Object, Object, Object> how =
                    Joined.<Object, Object, Object>as(text(step, "as")).withGracePeriod(duration(step, "grace"));
                return kind.equals("left") ? left.leftJoin(right, joiner, how) : left.join(right, joiner, how);
            }
            if (step.has("as")) {
                return left.join(right, joiner, Joined.as(text(step, "as")));
            }
            return kind.equals("left") ? left.leftJoin(right, joiner) : left.join(right, joiner);
        }
        final KStream<Object, Object> right = (KStream) other;
        final JoinWindows windows = JoinWindows.ofTimeDifferenceAndGrace(duration(step, "within"), duration(step, "grace"))
            .before(step.has("before") ? duration(step, "before") : duration(step, "within"))
            .after(step.has("after") ? duration(step, "after") : duration(step, "within"));
        if (step.has("as")) {
            final StreamJoined<Object, Object, Object> how = StreamJoined.<Object, Object, Object>as(text(step, "as"))
                .withName(text(step, "as"));
            return left.join(right, joiner, windows, how);
        }
        return kind.equals("left") ? left.leftJoin(right, joiner, windows)
            : kind.equals("outer") ? left.outerJoin(right, joiner, windows) : left.join(right, joiner, windows);
    }
}
