package lava.applet;

import java.lang.reflect.Method;
import java.security.AccessControlContext;
import java.security.AccessController;
import java.security.PrivilegedExceptionAction;

/**
 * A call that is prepared now and made later, with the rights of whoever prepared it.
 *
 * <p>Sound as long as nobody can change {@code rights}; see {@link ClassFinder}.
 */
@SuppressWarnings("removal")
public final class Statement {
    private final Class<?> owner;
    private final String method;
    private final Class<?>[] types;
    private final Object[] arguments;
    private AccessControlContext rights = AccessController.getContext();

    public Statement(Class<?> owner, String method, Class<?>[] types, Object... arguments) {
        this.owner = owner;
        this.method = method;
        this.types = types.clone();
        this.arguments = arguments.clone();
    }

    public Object execute() throws Exception {
        return AccessController.doPrivileged((PrivilegedExceptionAction<Object>) () -> {
            Method found = owner.getMethod(method, types);
            return found.invoke(null, arguments);
        }, rights);
    }
}
