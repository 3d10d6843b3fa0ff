// A cache in the heap of a JVM: get, set and version of memcached's text protocol, on a unix socket.

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.Channels;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

class KsmCache {
    static final int BUFFER = 65536;
    static final Map<String, byte[]> VALUES = new ConcurrentHashMap<>();

    public static void main(String[] arguments) throws IOException {
        ServerSocketChannel server = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
        server.bind(UnixDomainSocketAddress.of(arguments[0]));
        while (true) {
            SocketChannel client = server.accept();
            new Thread(() -> serve(client)).start();
        }
    }

    static void serve(SocketChannel client) {
        try (client) {
            InputStream in = new BufferedInputStream(Channels.newInputStream(client), BUFFER);
            OutputStream out = new BufferedOutputStream(Channels.newOutputStream(client), BUFFER);
            for (String line = line(in); line != null; line = line(in)) {
                out.write(answer(line.split(" "), in));
                if (in.available() == 0) { // a client may send many requests before it reads
                    out.flush();
                }
            }
        } catch (IOException gone) {
            // the client has ended
        }
    }

    static byte[] answer(String[] words, InputStream in) throws IOException {
        if (words[0].equals("set")) {
            byte[] value = in.readNBytes(Integer.parseInt(words[4]));
            line(in);
            VALUES.put(words[1], value);
            return bytes("STORED\r\n");
        }
        if (words[0].equals("get")) {
            byte[] value = VALUES.get(words[1]);
            if (value == null) {
                return bytes("END\r\n");
            }
            ByteArrayOutputStream found = new ByteArrayOutputStream();
            found.write(bytes("VALUE " + words[1] + " 0 " + value.length + "\r\n"));
            found.write(value);
            found.write(bytes("\r\nEND\r\n"));
            return found.toByteArray();
        }
        return bytes(words[0].equals("version") ? "VERSION 1\r\n" : "ERROR\r\n");
    }

    static String line(InputStream in) throws IOException {
        ByteArrayOutputStream found = new ByteArrayOutputStream();
        for (int each = in.read(); each != '\n'; each = in.read()) {
            if (each < 0) {
                return null;
            }
            found.write(each);
        }
        return found.toString(StandardCharsets.US_ASCII).stripTrailing();
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }
}
