# engine_checks.cmake - the native checks of everything above the kernels. Each ends with a line "N passed, N failed".
