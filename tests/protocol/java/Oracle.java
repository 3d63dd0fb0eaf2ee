import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.Set;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.MessageUtil;
import org.apache.kafka.common.record.internal.MemoryRecords;

/**
 * Kafka's own codec, one question a line: "class version hex". The answer is "ok consumed hex values", where hex are the
 * bytes Kafka writes for what it read and values are the fields as JSON; or "no exception".
 */
public class Oracle {
    private static final Set<String> NOT_FIELDS = Set.of("_unknownTaggedFields", "next", "prev");
    private static final HexFormat HEX = HexFormat.of();

    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ", -1);
            out.println(answer(words[0], Short.parseShort(words[1]), HEX.parseHex(words[2])));
        }
    }

    private static String answer(String name, short version, byte[] bytes) {
        try {
            Message message = (Message) Class.forName(name).getDeclaredConstructor().newInstance();
            ByteBuffer buffer = ByteBuffer.wrap(bytes);
            message.read(new ByteBufferAccessor(buffer), version);
            int consumed = buffer.position();
            StringBuilder values = new StringBuilder();
            append(values, message);
            return "ok " + consumed + " " + write(message, version) + " " + values;
        } catch (Throwable failure) {
            return "no " + failure.toString().replace('\n', ' ');
        }
    }

    private static String write(Message message, short version) {
        try {
            return HEX.formatHex(array(MessageUtil.toByteBufferAccessor(message, version).buffer()));
        } catch (RuntimeException failure) {
            // Unknown tagged fields are kept, and refused here if they came out of order.
            return "";
        }
    }

    private static byte[] array(ByteBuffer buffer) {
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return bytes;
    }

    private static void append(StringBuilder out, Object value) throws IllegalAccessException {
        if (value == null || value instanceof Number || value instanceof Boolean) {
            out.append(value);
        } else if (value instanceof String text) {
            // The hex of UTF-8 needs no escapes.
            appendHex(out, text.getBytes(StandardCharsets.UTF_8));
        } else if (value instanceof byte[] bytes) {
            appendHex(out, bytes);
        } else if (value instanceof ByteBuffer buffer) {
            appendHex(out, array(buffer));
        } else if (value instanceof MemoryRecords records) {
            appendHex(out, array(records.buffer()));
        } else if (value instanceof Uuid uuid) {
            appendHex(out, ByteBuffer.allocate(16).putLong(uuid.getMostSignificantBits())
                .putLong(uuid.getLeastSignificantBits()).array());
        } else if (value instanceof Iterable<?> items) {
            String separator = "[";
            for (Object item : items) {
                out.append(separator);
                append(out, item);
                separator = ",";
            }
            out.append(separator.equals("[") ? "[]" : "]");
        } else {
            String separator = "{";
            for (Field field : value.getClass().getDeclaredFields()) {
                if (Modifier.isStatic(field.getModifiers()) || NOT_FIELDS.contains(field.getName())) {
                    continue;
                }
                field.setAccessible(true);
                out.append(separator).append('"').append(field.getName()).append("\":");
                append(out, field.get(value));
                separator = ",";
            }
            out.append(separator.equals("{") ? "{}" : "}");
        }
    }

    private static void appendHex(StringBuilder out, byte[] bytes) {
        out.append('"').append(HEX.formatHex(bytes)).append('"');
    }
}
