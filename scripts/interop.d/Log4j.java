// log4j2: Log4j LOGGER MESSAGE...
import org.apache.logging.log4j.LogManager;

class Log4j {
    public static void main(String[] arguments) {
        var log = LogManager.getLogger(arguments[0]);
        for (int i = 1; i < arguments.length; i++) {
            log.info(arguments[i]);
        }
        LogManager.shutdown();
    }
}
