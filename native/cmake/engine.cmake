# engine.cmake - everything of libtrit above the kernels.
set(TRIT_ENGINE_SOURCES
  src/status.c src/mem.c src/checksum.c
  src/packed_file.c src/model.c src/kv.c
  src/thread_pool.c src/linear.c src/attention.c src/rank.c src/sampler.c src/sampler_check.c
  src/batch.c src/session.c src/forward.c
  src/measure/measure.c src/measure/int8_ref.c
  src/api.c)
set_source_files_properties(src/status.c PROPERTIES COMPILE_DEFINITIONS TRIT_VERSION="${PROJECT_VERSION}")

# The peak loops of measure/ want the flags of their instruction set; they run only where trit_isa_supported says so.
function(trit_int8_loop name flags)
  if(TARGET trit_isa_${name})
    set_source_files_properties(src/measure/int8_${name}.c PROPERTIES COMPILE_OPTIONS "${flags}")
    set(TRIT_ENGINE_SOURCES ${TRIT_ENGINE_SOURCES} src/measure/int8_${name}.c PARENT_SCOPE)
  endif()
endfunction()
trit_int8_loop(avx2 "-mavx2")
trit_int8_loop(avx512vnni "-mavx512f;-mavx512vnni")
trit_int8_loop(neon "-march=armv8.2-a+dotprod")
