package lava.applet;

import java.lang.reflect.Field;
import java.security.AccessController;
import java.security.PrivilegedExceptionAction;

/**
 * Finds members of classes on behalf of the host's other parts.
 *
 * <p><b>The planted flaw.</b> It is public, and acts with the host's rights without asking who called: sandboxed code
 * gets any private field opened. Of the same shape as CVE-2012-4681, and in no other program than this one.
 */
public final class ClassFinder {
    private ClassFinder() {}

    @SuppressWarnings("removal")
    public static Field getField(Class<?> owner, String name) throws Exception {
        return AccessController.doPrivileged((PrivilegedExceptionAction<Field>) () -> {
            Field field = owner.getDeclaredField(name);
            field.setAccessible(true);
            return field;
        });
    }
}
