package lava.applet;

/** What an untrusted jar brings. The class is named by {@code Applet-Class} in the jar's manifest. */
public interface Applet {
    /** Does the applet's work, in the sandbox; the result is the host's exit code. */
    int run() throws Exception;
}
