package lava.applet;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** The scenario's marker: where it is missing, nobody acts. */
public final class Marker {
    public static final String PATH = "/opt/scenario/MARKER";
    public static final String REFUSAL = "refused: not in a LAVA micro-VM";
    public static final int REFUSED = 64;

    private static final String TEXT =
            "LAVA drive-by scenario: a simulated attack may run in this micro-VM, and nowhere else.\n";

    private Marker() {}

    public static boolean present() {
        try {
            return Files.readString(Path.of(PATH)).equals(TEXT);
        } catch (IOException absent) {
            return false;
        }
    }
}
