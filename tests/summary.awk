# The sum of the result lines of `cargo test`. With -v status=N, the exit code of cargo, a failure that no result line
# tells (a test that does not compile, a program that was killed) is one, too.
/^test result: / {
    for (i = 2; i <= NF; i++) {
        if ($i ~ /^passed/) passed += $(i - 1)
        if ($i ~ /^failed/) failed += $(i - 1)
        if ($i ~ /^ignored/) skipped += $(i - 1)
    }
}
END {
    if (status != 0 && failed == 0) failed = 1
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
}
