// Runs converters, transforms and predicates of Kafka Connect on cases and writes down what comes out: the oracle of
// tests/connect/test_parity.py.
//
//     java -cp "classes:lib/*" Oracle cases.jsonl results.jsonl
//
// cases.py tells what a case is and how schemas and values look in JSON. The first line of the results names the JDK.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.PrintWriter;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Date;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.connect.connector.ConnectRecord;
import org.apache.kafka.connect.data.Decimal;
import org.apache.kafka.connect.data.Field;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.header.ConnectHeaders;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.sink.SinkRecord;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.storage.Converter;
import org.apache.kafka.connect.storage.HeaderConverter;
import org.apache.kafka.connect.transforms.Transformation;
import org.apache.kafka.connect.transforms.predicates.Predicate;

public class Oracle {
    static final ObjectMapper JSON = new ObjectMapper();
    static final HexFormat HEX = HexFormat.of();
    static final String LOGICAL = "org.apache.kafka.connect.data.";

    public static void main(final String[] args) throws Exception {
        try (BufferedReader in = Files.newBufferedReader(Path.of(args[0]));
                PrintWriter out = new PrintWriter(Files.newBufferedWriter(Path.of(args[1])))) {
            out.println(JSON.createObjectNode().put("java", System.getProperty("java.version")));
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                final ObjectNode result = JSON.createObjectNode();
                try {
                    run(JSON.readTree(line), result);
                } catch (final Throwable error) {
                    result.removeAll();
                    result.put("error", error.getClass().getSimpleName());
                    result.put("message", error.getMessage());
                }
                out.println(JSON.writeValueAsString(result));
            }
        }
    }

    static void run(final JsonNode one, final ObjectNode result) throws Exception {
        switch (one.get("op").asText()) {
            case "from": from(one, result); break;
            case "to": to(one, result); break;
            case "transform": transform(one, result); break;
            case "predicate": predicate(one, result); break;
            default: throw new IllegalArgumentException(one.get("op").asText());
        }
    }

    // Writes a value, reads what was written, writes it again.
    static void from(final JsonNode one, final ObjectNode result) throws Exception {
        final Schema schema = schema(one.get("schema"));
        final Object value = value(schema, one.get("value"));
        final Plugin plugin = new Plugin(one);
        final byte[] data = plugin.write(schema, value);
        result.put("bytes", data == null ? null : HEX.formatHex(data));
        read(plugin, data, result);
    }

    static void to(final JsonNode one, final ObjectNode result) throws Exception {
        final JsonNode data = one.get("bytes");
        read(new Plugin(one), data.isNull() ? null : HEX.parseHex(data.asText()), result);
    }

    static void read(final Plugin plugin, final byte[] data, final ObjectNode result) {
        try {
            final SchemaAndValue found = plugin.read(data);
            result.set("schema", found == null ? null : dump(found.schema()));
            result.set("value", found == null ? null : dump(found.value()));
            final byte[] again = found == null ? null : plugin.write(found.schema(), found.value());
            result.put("again", again == null ? null : HEX.formatHex(again));
        } catch (final Exception error) {
            result.put("error", error.getClass().getSimpleName());
            result.put("message", error.getMessage());
        }
    }

    static class Plugin {
        final Object made;

        Plugin(final JsonNode one) throws Exception {
            made = Class.forName(one.get("class").asText()).getDeclaredConstructor().newInstance();
            final Map<String, String> config = config(one.get("config"));
            if (made instanceof Converter)
                ((Converter) made).configure(config, false);
            else
                ((HeaderConverter) made).configure(config);
        }

        byte[] write(final Schema schema, final Object value) {
            if (made instanceof Converter)
                return ((Converter) made).fromConnectData("topic", schema, value);
            return ((HeaderConverter) made).fromConnectHeader("topic", "name", schema, value);
        }

        SchemaAndValue read(final byte[] data) {
            if (made instanceof Converter)
                return ((Converter) made).toConnectData("topic", data);
            return ((HeaderConverter) made).toConnectHeader("topic", "name", data);
        }
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    static void transform(final JsonNode one, final ObjectNode result) throws Exception {
        final Transformation transformation =
            (Transformation) Class.forName(one.get("class").asText()).getDeclaredConstructor().newInstance();
        transformation.configure(config(one.get("config")));
        dump(transformation.apply(record(one.get("record"))), result);
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    static void predicate(final JsonNode one, final ObjectNode result) throws Exception {
        final Predicate predicate = (Predicate) Class.forName(one.get("class").asText()).getDeclaredConstructor().newInstance();
        predicate.configure(config(one.get("config")));
        result.put("test", predicate.test(record(one.get("record"))));
    }

    static ConnectRecord<?> record(final JsonNode one) {
        final Schema keySchema = schema(one.get("key_schema"));
        final Object key = value(keySchema, one.get("key"));
        final Schema valueSchema = schema(one.get("value_schema"));
        final Object value = value(valueSchema, one.get("value"));
        final ConnectHeaders headers = new ConnectHeaders();
        for (final JsonNode header : one.get("headers")) {
            final Schema schema = schema(header.get(1));
            headers.add(header.get(0).asText(), value(schema, header.get(2)), schema);
        }
        final Integer partition = one.get("partition").isNull() ? null : Integer.valueOf(one.get("partition").asInt());
        final Long timestamp = one.get("timestamp").isNull() ? null : Long.valueOf(one.get("timestamp").asLong());
        final String topic = one.get("topic").asText();
        if (one.get("offset").isNull())
            return new SourceRecord(Map.of(), Map.of(), topic, partition, keySchema, key, valueSchema, value, timestamp, headers);
        return new SinkRecord(topic, partition == null ? 0 : partition, keySchema, key, valueSchema, value,
            one.get("offset").asLong(), timestamp, TimestampType.CREATE_TIME, headers);
    }

    static void dump(final ConnectRecord<?> record, final ObjectNode result) {
        if (record == null) {
            result.put("dropped", true);
            return;
        }
        result.put("topic", record.topic());
        result.put("partition", record.kafkaPartition());
        result.put("timestamp", record.timestamp());
        result.set("key_schema", dump(record.keySchema()));
        result.set("key", dump(record.key()));
        result.set("value_schema", dump(record.valueSchema()));
        result.set("value", dump(record.value()));
        final ArrayNode headers = result.putArray("headers");
        for (final Header header : record.headers()) {
            headers.add(JSON.createArrayNode().add(header.key()).add(dump(header.schema())).add(dump(header.value())));
        }
    }

    static Map<String, String> config(final JsonNode node) {
        final Map<String, String> found = new HashMap<>();
        node.fields().forEachRemaining(entry -> found.put(entry.getKey(), entry.getValue().asText()));
        return found;
    }

    static Schema schema(final JsonNode node) {
        if (node == null || node.isNull())
            return null;
        final Schema.Type type = Schema.Type.valueOf(node.get("type").asText());
        final SchemaBuilder builder;
        switch (type) {
            case ARRAY: builder = SchemaBuilder.array(schema(node.get("values"))); break;
            case MAP: builder = SchemaBuilder.map(schema(node.get("keys")), schema(node.get("values"))); break;
            default: builder = SchemaBuilder.type(type);
        }
        if (node.has("fields"))
            for (final JsonNode field : node.get("fields"))
                builder.field(field.get(0).asText(), schema(field.get(1)));
        if (node.has("optional"))
            builder.optional();
        if (node.has("name"))
            builder.name(node.get("name").asText());
        if (node.has("version"))
            builder.version(node.get("version").asInt());
        if (node.has("doc"))
            builder.doc(node.get("doc").asText());
        if (node.has("parameters"))
            for (final JsonNode parameter : node.get("parameters"))
                builder.parameter(parameter.get(0).asText(), parameter.get(1).asText());
        if (node.has("default"))
            builder.defaultValue(value(builder.build(), node.get("default")));
        return builder.build();
    }

    static Object value(final Schema schema, final JsonNode node) {
        if (node == null || node.isNull())
            return null;
        final JsonNode given = node.get(1);
        switch (node.get(0).asText()) {
            case "i": return integer(schema, given.asLong());
            case "f": {
                final double real = Double.longBitsToDouble(Long.parseUnsignedLong(given.asText(), 16));
                if (schema != null && schema.type() == Schema.Type.FLOAT32)
                    return (float) real;
                return real;
            }
            case "b": return given.asBoolean();
            case "s": return given.asText();
            case "y": return HEX.parseHex(given.asText());
            case "d": return new BigDecimal(new BigInteger(given.get(0).asText()), given.get(1).asInt());
            case "m": return new Date(given.asLong());
            case "l": {
                final List<Object> list = new ArrayList<>();
                for (final JsonNode item : given)
                    list.add(value(schema == null ? null : schema.valueSchema(), item));
                return list;
            }
            case "h": {
                final Map<Object, Object> map = new LinkedHashMap<>();
                for (final JsonNode entry : given)
                    map.put(value(schema == null ? null : schema.keySchema(), entry.get(0)),
                        value(schema == null ? null : schema.valueSchema(), entry.get(1)));
                return map;
            }
            case "o": {
                final Struct struct = new Struct(schema);
                for (final JsonNode entry : given) {
                    final Field field = schema.field(entry.get(0).asText());
                    struct.put(entry.get(0).asText(), value(field == null ? null : field.schema(), entry.get(1)));
                }
                return struct;
            }
            default: throw new IllegalArgumentException(node.toString());
        }
    }

    static Object integer(final Schema schema, final long number) {
        if (schema != null)
            switch (schema.type()) {
                case INT8: return (byte) number;
                case INT16: return (short) number;
                case INT32: return (int) number;
                default:
            }
        return number;
    }

    static JsonNode dump(final Schema schema) {
        if (schema == null)
            return JSON.nullNode();
        final ObjectNode node = JSON.createObjectNode();
        node.put("type", schema.type().name());
        if (schema.type() == Schema.Type.STRUCT) {
            final ArrayNode fields = node.putArray("fields");
            for (final Field field : schema.fields())
                fields.add(JSON.createArrayNode().add(field.name()).add(dump(field.schema())));
        }
        if (schema.type() == Schema.Type.MAP)
            node.set("keys", dump(schema.keySchema()));
        if (schema.type() == Schema.Type.MAP || schema.type() == Schema.Type.ARRAY)
            node.set("values", dump(schema.valueSchema()));
        if (schema.isOptional())
            node.put("optional", true);
        if (schema.name() != null)
            node.put("name", schema.name());
        if (schema.version() != null)
            node.put("version", schema.version());
        if (schema.doc() != null)
            node.put("doc", schema.doc());
        if (schema.parameters() != null && !schema.parameters().isEmpty()) {
            final ArrayNode parameters = node.putArray("parameters");
            schema.parameters().forEach((name, text) -> parameters.add(JSON.createArrayNode().add(name).add(text)));
        }
        if (schema.defaultValue() != null)
            node.set("default", dump(schema.defaultValue()));
        return node;
    }

    static JsonNode dump(final Object value) {
        if (value == null)
            return JSON.nullNode();
        final ArrayNode node = JSON.createArrayNode();
        if (value instanceof Float || value instanceof Double) {
            final long bits = Double.doubleToLongBits(((Number) value).doubleValue());
            return node.add("f").add(String.format("%016x", bits));
        }
        if (value instanceof BigDecimal) {
            final BigDecimal decimal = (BigDecimal) value;
            return node.add("d").add(JSON.createArrayNode().add(decimal.unscaledValue().toString()).add(decimal.scale()));
        }
        if (value instanceof Number)
            return node.add("i").add(((Number) value).longValue());
        if (value instanceof Boolean)
            return node.add("b").add((Boolean) value);
        if (value instanceof String)
            return node.add("s").add((String) value);
        if (value instanceof byte[])
            return node.add("y").add(HEX.formatHex((byte[]) value));
        if (value instanceof Date)
            return node.add("m").add(((Date) value).getTime());
        final ArrayNode items = JSON.createArrayNode();
        if (value instanceof List) {
            for (final Object item : (List<?>) value)
                items.add(dump(item));
            return node.add("l").add(items);
        }
        if (value instanceof Map) {
            for (final Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet())
                items.add(JSON.createArrayNode().add(dump(entry.getKey())).add(dump(entry.getValue())));
            return node.add("h").add(items);
        }
        if (value instanceof Struct) {
            final Struct struct = (Struct) value;
            for (final Field field : struct.schema().fields()) {
                final Object item = struct.getWithoutDefault(field.name());
                if (item != null)
                    items.add(JSON.createArrayNode().add(field.name()).add(dump(item)));
            }
            return node.add("o").add(items);
        }
        throw new IllegalArgumentException(value.getClass().getName());
    }
}
