import java.time.Duration;
import java.util.Arrays;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;

/** The topologies in Java's Kafka Streams, configured by the environment (see benchmarks/streams_speed.py). */
public class Speed {
    static final ObjectMapper JSON = new ObjectMapper();

    static JsonNode parse(String text) {
        try {
            return JSON.readTree(text);
        } catch (Exception error) {
            throw new RuntimeException(error);
        }
    }

    static String write(Object value) {
        try {
            return JSON.writeValueAsString(value);
        } catch (Exception error) {
            throw new RuntimeException(error);
        }
    }

    public static void main(String[] arguments) {
        Map<String, String> env = System.getenv();
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, env.get("BENCH_APP"));
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env.get("BENCH_BOOTSTRAP"));
        config.put(StreamsConfig.STATE_DIR_CONFIG, env.get("BENCH_STATE"));
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, env.get("BENCH_GUARANTEE"));
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, env.get("BENCH_COMMIT_MS"));
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, JsonNode> events = builder
            .stream(env.get("BENCH_INPUT"), Consumed.with(Serdes.String(), Serdes.String()))
            .mapValues(Speed::parse);
        String target = env.get("BENCH_OUTPUT");
        switch (arguments[0]) {
            case "filter_map" -> events
                .filter((key, event) -> event.get("price").asInt() >= 0)
                .mapValues(event -> write(Map.of("user", event.get("user"), "total", event.get("price").asInt() * 2)))
                .to(target, Produced.with(Serdes.String(), Serdes.String()));
            case "word_count" -> events
                .flatMapValues(event -> Arrays.asList(event.get("text").asText().split(" ")))
                .groupBy((key, word) -> word, Grouped.with(Serdes.String(), Serdes.String()))
                .count(Materialized.as("counts"))
                .toStream()
                .mapValues(count -> write(count))
                .to(target, Produced.with(Serdes.String(), Serdes.String()));
            case "tumbling" -> events
                .mapValues(event -> event.get("price").asInt())
                .groupByKey(Grouped.with(Serdes.String(), Serdes.Integer()))
                .windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofMinutes(1)))
                .reduce(Integer::sum, Materialized.as("sums"))
                .toStream()
                .map((window, total) -> KeyValue.pair(window.key(), write(total)))
                .to(target, Produced.with(Serdes.String(), Serdes.String()));
            case "table_join" -> events
                .join(
                    builder.table("users", Consumed.with(Serdes.String(), Serdes.String()), Materialized.as("users")),
                    (event, user) -> write(Map.of("name", parse(user).get("name"), "price", event.get("price"))),
                    Joined.with(Serdes.String(), null, Serdes.String()))
                .to(target, Produced.with(Serdes.String(), Serdes.String()));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        KafkaStreams streams = new KafkaStreams(builder.build(), config);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }
}
