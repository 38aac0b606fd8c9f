import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.Scanner;
import org.apache.kafka.connect.data.ConnectSchema;
import org.apache.kafka.connect.data.Date;
import org.apache.kafka.connect.data.Decimal;
import org.apache.kafka.connect.data.Field;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.json.JsonConverter;

/** Kafka Connect's own converter at both ends: `write` as a source connector does, `read` as a sink does, one line a field. */
public class Converter {
    public static void main(String[] args) {
        try (JsonConverter converter = new JsonConverter()) {
            converter.configure(Map.of("schemas.enable", "true", "converter.type", "value"));
            if (args[0].equals("write")) {
                write(converter);
            } else {
                read(converter);
            }
        }
    }

    private static void write(JsonConverter converter) {
        Schema line = SchemaBuilder.struct().name("Line").field("recipient", Schema.STRING_SCHEMA).field("quantity", Schema.INT32_SCHEMA).build();
        Schema row = SchemaBuilder.struct().name("Row").optional()
            .field("id", Schema.INT64_SCHEMA)
            .field("email", SchemaBuilder.string().defaultValue("nobody").build())
            .field("age", SchemaBuilder.int32().defaultValue(0).build())
            .field("vip", Schema.BOOLEAN_SCHEMA)
            .field("phones", SchemaBuilder.array(Schema.INT64_SCHEMA).build())
            .field("tags", SchemaBuilder.map(Schema.STRING_SCHEMA, Schema.BOOLEAN_SCHEMA).build())
            .field("lines", SchemaBuilder.array(line).optional().build())
            .field("born", Date.builder().optional().build())
            .field("salary", Decimal.builder(2).optional().build())
            .field("note", Schema.STRING_SCHEMA)
            .build();
        Schema change = SchemaBuilder.struct().name("Change").field("before", row).field("after", row).field("op", Schema.STRING_SCHEMA).build();
        Struct ada = new Struct(row).put("id", 7L).put("email", "ada@example.com").put("age", 36).put("vip", true)
            .put("phones", List.of(4155550101L, 4155550102L)).put("tags", Map.of("early", true))
            .put("lines", List.of(new Struct(line).put("recipient", "Charles").put("quantity", 2)))
            .put("born", new java.util.Date(1819L * 86_400_000)).put("salary", new java.math.BigDecimal("1234.50")).put("note", "gift");
        Struct nobody = new Struct(row).put("id", 8L).put("email", "").put("age", 0).put("vip", false).put("phones", List.of()).put("tags", Map.of())
            .put("note", "");
        for (Struct after : List.of(ada, nobody)) {
            Struct value = new Struct(change).put("after", after).put("op", "c");
            System.out.println(new String(converter.fromConnectData("changes", change, value), StandardCharsets.UTF_8));
        }
    }

    private static void read(JsonConverter converter) {
        Scanner lines = new Scanner(System.in, StandardCharsets.UTF_8);
        while (lines.hasNextLine()) {
            SchemaAndValue read = converter.toConnectData("changes", lines.nextLine().getBytes(StandardCharsets.UTF_8));
            ConnectSchema.validateValue(read.schema(), read.value());
            show("$", read.schema(), read.value());
            System.out.println("end of record");
        }
    }

    private static void show(String path, Schema schema, Object value) {
        if (schema.type() == Schema.Type.STRUCT && value != null) {
            for (Field field : schema.fields()) {
                show(path + "." + field.name(), field.schema(), ((Struct) value).get(field));
            }
        } else if (schema.type() == Schema.Type.ARRAY && value != null) {
            System.out.println(path + " ARRAY of " + schema.valueSchema().type() + " " + ((List<?>) value).size());
            for (Object element : (List<?>) value) {
                show(path + "[]", schema.valueSchema(), element);
            }
        } else {
            String name = schema.name() == null ? "" : " " + schema.name();
            System.out.println(path + " " + schema.type() + (schema.isOptional() ? "?" : "") + name + " " + value);
        }
    }
}
