"""encoderkit beside what people would use instead, on the same work and machine; not part of the test run."""
